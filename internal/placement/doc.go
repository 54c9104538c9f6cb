// Package placement chooses the preferred node of each address that layer 2
// announces.
//
// Placement is the slow half of layer 2. The controller computes it, writes it
// next to the assignment (condition belfry.dev/Placed), and every speaker reads
// it there; failover (package election) is fast and needs neither. What is
// decided here is what no speaker can decide by itself: how to share the
// addresses out evenly, which takes the knowledge of all of them at once.
//
// # What holds
//
// An address stays where it is recorded as long as that node exists and
// configuration lets it announce the address. A node that joins changes
// nothing; a node that goes moves its own addresses and no others. Endpoints are
// left out of this on purpose: a Service whose only Pod restarts must come back
// to the same node. Where they matter (externalTrafficPolicy Local) the speakers
// find another owner at once, and the owner is recorded.
//
// An address that needs a place gets one of the best nodes: ready ones before
// others, those with an endpoint first where that matters, and of those the ones
// of the greatest weight. Of equally good nodes the emptiest gets it, so that the
// numbers of their addresses differ by as little as they can. Among those with
// room the order of the election decides. That is the order in which speakers
// succeed each other without asking, so most addresses that are new, or whose
// node drains, are placed where the speakers have already taken them, and the
// rest move once more, without a gap.
//
// # Following and failing back
//
// Whether a node is dead is gossip's business, not this package's: that it is
// not ready only keeps new addresses away. The node
// that takes over an address is recorded as its place (failback Never), so that
// the address stays when the former owner returns, and counts where it is. With
// failback Immediate the controller alone writes the place: it remembers
// the preferred node while others stand in, and it follows the weights.
//
// # Moving
//
// Whoever may edit a Service may ask for a node by name ([Address.Objects]). It is
// asked once: where the address goes from there afterwards is as above.
//
// # Rebalancing
//
// [Rebalance] undoes what failovers and new nodes have left uneven. It happens
// only on request, a few moves at a time, each of which brings the numbers
// nearer to each other or an address to a node of greater weight; so it ends.
//
// # Alternatives
//
// A consistent hash alone (what speakers fall back to) moves little but is even
// only for thousands of addresses: of four addresses on three nodes it puts
// three on one every few times. Counting alone is even, but places an address
// away from where the speakers have just moved it. Hashing with bounded loads
// has most of both; here the bound is exact, because one process knows all the
// counts.
package placement
