// Package speaker is the announcement loop: on every node, it brings what the
// API server, the other speakers and the kernel say before announce.Decide, and
// has the decision carried out.
//
//	cluster changed ----\                              /-> Link.Set          (wire)
//	members changed -----+-> Decide: complete Intent -+--> Membership.Publish (gossip)
//	interfaces changed --/                             \-> herald            (API)
//
// There is one dirty bit per source and no queue: whatever happened, the whole
// world is decided again. The first event acts at once; those that follow
// closely share one pass. A pass that decides what the last one did sends
// nothing to anybody.
//
// # What may wait, and what may not
//
// The wire comes first, gossip second, both without waiting for anything. What
// is to be written to the API server is left to the herald, a goroutine of its
// own that compares the newest Intent with what the Services say, writes what
// differs at a bounded rate, and backs off while the API server is away. Nothing
// on the wire depends on it.
//
// # Handing over
//
// An address that another speaker takes over in an orderly way passes through
// the role Holder: this node answers until it learns by gossip that the other
// one claims it. That the place of an address has changed is for its owner to
// act on: it offers the address to the node where it is placed
// (election.Failback). It then lingers, still answering but claiming nothing, until it
// hears the other on the wire, or a moment at most: the other's socket may be
// younger than its claim. Where two speakers claimed an address at once there is
// no lingering: one has to stop, and the other is answering already.
//
// SIGTERM does the same with everything: the speaker says that it is leaving,
// and stops once all has been taken over, or after a bound.
//
// # Returning
//
// When a partition heals, frames cross before gossip does: the kernels of both
// sides have given up resolving each other, and try again once a second. So a
// speaker that hears, on the wire, one that gossip has lost asks it for its own
// address. Question and answer teach both kernels where the other is, gossip
// gets through, and the claims decide.
//
// # Routers
//
// BGP needs no election: every node that may advertise an address does. So it
// runs beside the loop and not in it, on a goroutine of its own that the loop
// hands every snapshot to: it decides what each peer is to hear (package bgp) and
// hands that on to whoever holds the sessions. A panic over it leaves what was
// decided before in force, and layer 2 alone.
//
// On SIGTERM, peers are told that the node is about to go (RFC 8326), have a
// grace period to find another way, and then lose the routes. Peers with graceful
// restart are told nothing: their sessions just end, and they keep the routes for
// the speaker that comes next. A node that is drained leaves them all.
//
// # Strangers
//
// An address that nobody is known to serve is not claimed before its segment was
// asked (layer2.ACD): until then this node is its owner by election, answers
// for nothing and claims nothing, so the others see no claim and elect the same
// owner. What is known to be in service is claimed at once. Which stations are
// strangers is found out in conflict.go, so that speakers never are.
//
// # Goroutines
//
//	who             started by  owns                             ended by
//	[Speaker.Run]   the caller  the index, the intent, what      its context, after
//	                            lingers; calls Link and          handing over
//	                            Membership
//	herald          Run         what was said to the API server  Run, when all is
//	                                                             handed over
//	router          Run         what BGP is to do                Run's context, after
//	                                                             taking leave
//	[Registrar.Run] the caller  nothing; reads the newest state  its context, after
//	                                                             one last write
//	question to a   Run         nothing                          its answer, or Run
//	returning
//	speaker
//	question to a   Run         nothing; the answer comes back   its answer, or Run
//	segment or an               by a channel
//	unknown station
package speaker
