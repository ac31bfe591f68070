// Package problem holds the errors that a client may see: RFC 9457 problem
// details. One table gives each slug its status and title; one place renders
// them. Handlers and domain adapters return *Error (or wrap it); what is not an
// *Error is shown as "internal" by the server, without its text.
package problem
