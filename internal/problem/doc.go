// Package problem defines the errors that a client may see: RFC 9457 problem details. One table has
// the status and title of each slug; one function renders them. Handlers and domain adapters return
// *Error (or wrap it). The server shows any other error as "internal", without its text.
package problem
