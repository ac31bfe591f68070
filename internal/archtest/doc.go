// Package layout keeps the rules of the house that a compiler does not: which
// package may import which. It has tests only.
package archtest
