// Package archtest tests the project's rules that the compiler does not check, such as which
// package may import which. It has tests only.
package archtest
