//go:build !failpoints

package failpoint

// Enabled reports whether this binary was built with the tag.
const Enabled = false

// Hit does nothing in a binary without the tag.
func Hit(Point) {}

// Error returns nil in a binary without the tag.
func Error(Point) error { return nil }
