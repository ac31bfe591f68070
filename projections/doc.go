// Package projections is the contract of the read models: what each of them implements, and what
// those who build and read them share.
//
// A read model is a subpackage. It implements Projection (projection.go): which row an event
// belongs to, how events change rows, how rows are read and written. If it also implements
// Rebuildable (rebuild.go), its tables can be built from the whole history.
//
// Two programs build rows with this code. The projector (package projector) applies events as they
// arrive from Kafka, to the live generation. A replay (package replay) fills the tables of the next
// generation from the event store, or from the topic, and swaps the two. A Fold does not depend on
// the source of the events and does not commit, so that both can use it.
//
// Readers query views, which show the live generation (views.go). How far each read model is, and
// how many of its events are parked, is read by ReadStatus (status.go); what operators do about
// parked events is in package parking. Rows belong to one event store (source.go).
package projections
