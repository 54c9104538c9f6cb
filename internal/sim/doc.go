// Package sim runs a cluster of speakers on a virtual clock, over a network that
// loses, delays and parts packets, with nodes that crash, stall, lose power or
// their cable, leave and return, and that learn of changes late. It holds tests
// only.
//
// What is simulated is the kernel, the network and memberlist's verdicts; what
// decides is the product's own: election's View, Suspicion, OwnClaims and RoleOf.
//
// A scenario is a short text, derived from a seed or read from testdata. One
// that breaks an invariant prints itself with a history of what happened; put
// into testdata it is a regression test.
package sim
