// Package topology connects to one Redis: a server, the master that Sentinels name, or the masters
// of a Redis Cluster. It finds the master of a key, keeps up with failovers and moved slots, and
// runs scripts on connections whose process is known.
//
// go-redis has clients for all three (MasterForKey, NewFailoverClient). They are not used, because
// the gate needs what they hide:
//
//   - The instance id belongs to a connection, and a call carries that of the process which runs
//     it. A pool does not reveal which connection ran a script.
//   - A call is sent once. ClusterClient repeats it up to MaxRedirects times even with
//     MaxRetries: -1, and a repeated decision whose first answer was lost is another decision.
//   - If servers disagree about the master, the one with the higher configuration epoch counts, and
//     that epoch is recorded with each lease.
//   - A master that does not answer must not hold up calls to another one.
package topology
