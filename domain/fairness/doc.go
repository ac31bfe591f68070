// Package fairness proves rule R6 from a gate's decision log: grants follow
// arrival, and no request is refused for lack of stock while a unit is free.
//
// The log is the gate's own record, line by line, in the order of its
// decisions. Line is one line and its NDJSON form, Reader reads a log and reports
// invalid lines, and Fold folds one, line by line, in memory that
// grows with the stock and not with the log:
//
//   - free is 0 at the beginning of an epoch, and units granted before are unknown;
//   - opened adds units, returned adds one, and a unit that is known to be
//     free is not returned again;
//   - granted needs a free unit and takes one that must not be granted already;
//   - refused is a run of requests: `to` - `from` + 1 is the sum of its counts,
//     and free is 0 if soldOut is above 0;
//   - decisions have numbers: epoch × 10^10 + 1 first, then each one more than
//     the previous one. Epochs only increase.
//
// Each request that a run refused as sold out while a unit was free is an
// inversion. If lines are missing, which shows as a gap in the numbers, only those count that
// are inversions even if each missing decision was a grant. After a line that violates a rule, a Fold continues from the state that the
// line implies, so that one wrong line is reported once.
package fairness
