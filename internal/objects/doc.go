// Package objects turns the objects of the Kubernetes API into the nouns that
// decisions are made of, and what was decided about a Service into what is written to
// it.
//
// An object is reduced to what a decision can depend on: a Service becomes an
// lb.Service, an EndpointSlice a count per node. What is kept of one is bounded,
// whatever its author writes (docs/design/bounds.md).
//
// What we write to a Service and what we read of it later stand side by side here: the
// record of what we gave, the terms on which addresses are shared, the annotations for
// people. Nobody else knows how these are spelled.
//
// It is as pure as the packages that decide, so that the loops, which follow an API
// server, and those who have the objects from elsewhere read them alike.
package objects
