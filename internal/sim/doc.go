// Package sim runs a cluster of speakers on a virtual clock, over networks that
// lose, delay and part packets, with nodes that crash, stall, lose power or a cable,
// are renumbered, leave and return, and that learn of changes late. It holds tests
// only.
//
// What is simulated is the kernel, the networks (one for gossip, one for each
// segment), the API server and memberlist's judgment. What decides is the
// product's own: core.Core, election.View, announce.Decider, placement.Plan, and
// layer2's Table, Schedule and Detection. No decision is written down here a second
// time; the rule by which the record of an address follows its owner is the one
// exception, which has no pure room yet.
//
// A scenario is a short text, derived from a seed or read from testdata. One
// that breaks an invariant prints itself with a history of what happened; put
// into testdata it is a regression test. testdata/known has what goes wrong today.
//
// # Invariants
//
//   - Among nodes that hear each other at most one answers for an address, and one
//     does within a bound whenever one could.
//   - No planned change (a node leaves, may not announce any more, an address is
//     placed elsewhere) leaves an address without an answer for a moment.
//   - Nothing in use moves without a cause.
//   - Every answer is one that configuration permits.
//   - What neighbors heard last is the owner.
package sim
