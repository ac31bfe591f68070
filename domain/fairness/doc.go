// Package fairness proves rule R6 from a gate's decision log: grants follow
// arrival, and nobody is refused for want of stock while a unit is free.
//
// The log is the gate's own account, line by line, in the order in which it
// decided. Line is one line and its NDJSON form, Reader reads a log and says
// which line is wrong, and Fold folds one, line after line, in memory that
// grows with the stock and not with the log:
//
//   - free is 0 where an epoch begins, and what was out before is unknown;
//   - opened adds units, returned adds one, and a unit that is known to be
//     free is not returned again;
//   - granted needs a free unit and takes one, which must not be out already;
//   - refused is a run of requests: `to` - `from` + 1 is the sum of its counts,
//     and free is 0 where soldOut is above 0;
//   - decisions bear numbers: epoch × 10^10 + 1 first, then each one more than
//     the one before. Epochs only rise.
//
// Each request that a run refused as sold out while a unit was free is an
// inversion. A Fold goes on after a line that breaks a rule, from where that
// line says it is, so that one wrong line is told once.
package fairness
