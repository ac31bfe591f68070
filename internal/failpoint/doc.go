// Package failpoint marks the places at which a crash, a pause or an error is tested: before and
// after every commit, every gate call, every publish and every checkpoint.
//
// Built without the tag `failpoints`, as every production binary is, [Hit] and [Error] are empty
// and inlined away. With the tag a point can be armed:
//
// - DOPAMINE_FAILPOINTS is a specification that is armed at startup.
// - DOPAMINE_FAILPOINT_FILE names a file with a specification. It is read again whenever it
// changes, so that a running process can be armed.
// - DOPAMINE_FAILPOINT_LOG names a file to which `hit <point>` is appended the first time a point
// is reached, and `strike <point> <action>` before an action.
//
// A specification is a list separated by `;` or newlines:
//
//	<point>=<action>[@<n>]
//
// with the actions
//
//	kill          SIGKILL to the process itself
//	stop          SIGSTOP to the process itself, until it receives SIGCONT
//	error         an error from [Error]; no effect at a point that only has [Hit]
//	delay(<dur>)  a pause, for instance delay(200ms)
//
// and n the hit, counted from arming, at which the action strikes once. The default is 1; `*`
// strikes at every hit.
package failpoint
