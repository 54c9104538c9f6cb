// Package speaker is the announcement loop: on every node, it tells a core.Core
// what the API server, the other speakers, the kernel and the segments say, and
// carries out what the Core returns.
//
//	cluster changed ----\                          /-> Link.Set          (wire)
//	members changed -----+-> Core.Settle: Effects -+--> Membership.Publish (gossip)
//	interfaces changed --/                         \-> State, for a [Reporter] (API)
//	frame heard, question answered --/
//
// The loop decides nothing and remembers nothing about an address. It owns the
// clock: news from the API server are read at once and then, while a burst of them
// goes on, at a bounded rate.
//
// # What may wait, and what may not
//
// The wire comes first, gossip second, both without waiting for anything. What
// the node does is shown as a State. A [Reporter] beside the loop writes the newest
// into the node's SpeakerStatus, which is all that a speaker writes, and backs off
// while the API server is away. Nothing on the wire depends on it.
//
// # Routers
//
// BGP needs no election: every node that may advertise an address does. So it
// runs beside the loop and not in it, on a goroutine of its own that the loop
// hands every snapshot to: it decides what each peer is to hear (package bgp) and
// hands that on to the Peering. A panic over it leaves what was
// decided before in force, and layer 2 alone.
//
// On SIGTERM, peers are told that the node is about to go (RFC 8326), have a
// grace period to find another way, and then lose the routes. Peers with graceful
// restart are told nothing: their sessions just end, and they keep the routes for
// the speaker that comes next. A node that is drained leaves them all.
//
// # Goroutines
//
//	who             started by  owns                             ended by
//	[Speaker.Run]   the caller  the Core; calls Link and         its context, after
//	                            Membership                       handing over
//	router          Run         what BGP is to do                Run's context, after
//	                                                             taking leave
//	[Reporter.Run] the caller  nothing; reads the newest state  its context, after
//	                                                             one last write
//	question to a   Run         nothing; the answer comes back   its answer, or Run
//	segment or a                by a channel
//	station
package speaker
