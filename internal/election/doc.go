// Package election decides which node owns an address.
//
// Every speaker runs the same pure function, [Winner], over what it knows: who
// is a candidate (configuration, nodes, endpoints), who lives (gossip), who
// answers for the address at present (gossip), and where the controller placed
// it. There is no leader, no lease and no request to anybody, so a node can be
// replaced while the API server is away.
//
// # The order
//
// Candidates that stay come before those that leave, on-link ones before
// off-link ones, then who owns the address already (or, if the owner offers it,
// the node where it is placed), then the heavier by weight, then the smallest
// sha256(node + "#" + address): the order MetalLB uses, so that replacing it node
// by node moves nothing. That last key makes movement bounded and spread even:
// the order of the nodes that remain does not change when one goes, so only its
// own addresses move, each to the next in its own shuffled order.
//
// # Why owners announce what they own
//
// A hash alone is not sticky: a node that joins is the best for one address in
// n, and would take it from an owner that works. To stay put without asking
// the API server, an owner gossips a [Claim] for each address it answers for,
// and a claim weighs more than a hash. A node that joins learns all claims in
// its first exchange of state and is [Joining], which is no candidate, until
// then. Claims are the complete set of their node, not a log of changes: a
// newer set replaces an older one, so a lost packet costs nothing but time.
//
// The alternatives: ranking by how long each node has lived needs no list, but
// owner and heir of an address are then the result of a history that two nodes
// may have seen in different orders. Writing the owner to the API server is
// what the controller's placement does; it is too slow, and may be away. A
// digest of the owned set says that something differs and not what. The set
// itself is small: neighboring addresses claimed together code as one range,
// so thousands take a few kilobytes.
//
// # Two claims for one address
//
// A partition leaves an owner on each side; so does a process that was stopped
// for seconds and resumes. When they hear of each other, both rank the two
// claims by the same fixed values and one of them stops, after one packet:
//
//   - A claim made while hearing a majority of the members beats one made
//     without, and that beats one made blindly, before anybody was heard. A
//     node that lost its cable and claimed the whole world loses all of it.
//   - Of two majority claims the later wins: it took over from the other, for
//     a reason, and taking over again would be a failback. Of two lesser ones
//     the earlier wins: nothing but isolation made the second.
//   - Equal ones are ranked by the hash.
//
// A node that is cut off finds out slowly: it loses the others one after the
// other, and finds them again in the same way. So no node is sure of a majority
// until a second and a half passed since the last loss or return; what it
// claims before that is raised then, unless contested. A cut shorter than that leaves
// everything where it was.
//
// Later and earlier are Lamport's: an epoch exceeds every epoch its claimant
// had heard of. No clocks are compared between machines. An even split (two
// nodes, say) has no majority on either side, so all returns to where it was.
//
// # Why a claim weighs more than a place
//
// The place of an address follows its owner: a node that takes over is recorded
// (package announce), so that nothing fails back. A node that returns from
// behind a cut cable hears the gossip at once and the API server seconds later.
// For as long it believes that the address is placed on itself, and all others
// know better. If the place decided, two would answer; or, between two who know
// different places of an address whose owner has died, none. Claims travel with
// the gossip and are the same for all who hear each other.
//
// So a place decides nothing by itself about an address in service: the owner
// does, who alone can tell whether the place is news. It offers the address
// ([Failback]), which is a claim that any other beats, and answers until the placed
// node claims it. With failback Immediate the owner offers whenever the placed node
// is fit to take it.
//
// A new address, which a speaker has seen come into being and no node has claimed, is
// left to the node where it is placed ([Holdoff]), but not for long: those who know
// different places of it do not wait for each other for ever. Nor is anybody waited
// for longer who does not claim an address in service that is its own to claim.
//
// # Handing over
//
// An owner that is to give an address away (it leaves, or the placement moved)
// stays [Retiring], answering until it hears the winner claim it. The successor answers
// before the predecessor stops; and should the successor's view of the
// configuration lag, so that it does not know of its luck, the address does not
// go dark meanwhile.
package election
