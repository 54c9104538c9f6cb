// Package bgp decides what each BGP session of a node says.
//
// [Decide] goes from the world as Kubernetes describes it to complete routes for
// each peer, with a reason for every address that is not advertised. [Diff]
// compares two such tables. [Negotiate] judges a router's OPEN. Backoff,
// [NextHops] and the words in which troubles are told stand here too, so that
// everything that could be wrong about a session can be tested without one.
//
// What others do, and what this does instead:
//
//   - A route belongs to a session, not to a speaker. Each peer has a table of
//     its own, worked out in full every time; there is no shared RIB with export
//     policies between it and the peer, so a change of attributes can not leak
//     a route to the wrong peer, nor forget to withdraw one.
//   - Advertisements that contradict each other do not make the result depend on
//     the order of reconciliation: the older one holds, and the younger one is
//     reported, for that prefix alone.
//   - Local preference is for internal peers only, and a prepended AS path for
//     external ones only: the other way round is refused by routers, some of
//     which then reset the session.
//
// The sessions themselves are held by internal/bgp/guard and internal/bgp/gobgp.
package bgp
