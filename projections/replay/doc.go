// Package replay builds the next generation of a projection from the event
// store beside the live one, and swaps.
package replay
