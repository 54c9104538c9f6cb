// Package guard owns the connection to a router.
//
// gobgp v3 can be crashed by one UPDATE of an established router: its parser
// panics in a goroutine that no other can recover. So it never sees one. The guard
// dials the router itself, speaks BGP's session part itself (OPEN, KEEPALIVE,
// NOTIFICATION, the timers: [fsm.Session]), and gives gobgp a connection of its own on
// loopback ([Backend]) with a peer that is always there and always well behaved.
// What crosses over is this:
//
//	gobgp -> router   UPDATE, as gobgp wrote it
//	router -> gobgp   ROUTE-REFRESH, written anew, for a family that is in use
//
// and nothing else. Received routes are counted and dropped; we have no use for
// them. Because the guard ends both sessions,
//
//   - gobgp's table survives a session: when a router comes back it is asked to
//     refresh its whole table, and End-of-RIB tells where that ends;
//   - a session can be closed with a NOTIFICATION that says why, or without one,
//     which is what graceful restart needs (gobgp always sends one);
//   - timers, passwords, source, TTL and device are the kernel's and ours, for
//     link-local and VRF peers too, and every trouble has its own words.
//
// # Goroutines
//
//	who starts it       what it does                                 what ends it
//	Backend.Run's caller  reads gobgp, hands UPDATEs to the Link       gobgp or Backend closed
//	Link.Open           reads the router                             the connection
//	Link.Open           writes to the router                         the end of the session
//	Link.Run's caller   gives the fsm.Session what happens           the end of the session
//	Neighbor.Run        (its caller's) sends router advertisements   its context
//	Neighbor.Run        reads router advertisements                  Neighbor.Run returns
//
// Each recovers from a panic of its own, which then ends that session alone.
//
// docs/design/guard.md has the alternatives.
package guard
