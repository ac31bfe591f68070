// Package payments carries payments from their start to their end.
package payments
