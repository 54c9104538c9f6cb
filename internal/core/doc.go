// Package core is a speaker's protocol as a machine without I/O: it is told what
// happened and when, and returns what is to be done.
//
//	Configure      the API server holds this          Claims       answer for these
//	SetMembers     gossip lists these                 Gossip       say this of us
//	SetInterfaces  the kernel has these               Announce     announce these afresh
//	Hear           a station uses an address          Defend       defend these
//	Detected       who uses these addresses           Detect       ask who uses these
//	Identified     whose station it is                Identify     ask whose station it is
//	Asked          whether it answers                 Ask          ask another speaker for these
//	Proved         who answers for these              Prove        ask as a client would
//	Leave          this node is about to go           Knock        ask a speaker that returns
//	                                                  View, Transitions, Conflicts: to be told
//	                     Settle(now)                  Next         call Settle again then
//
// What a Core keeps between two events is nowhere else: the loop of package
// speaker carries out [Effects], and a simulation drives the same type on a clock of
// its own. Two Cores that are told the same return the same.
//
// Whatever happened, the whole world is decided again; what only confirms the last
// decision is passed over. A decision that equals the last one has no effects but
// its View.
//
// # Handing over
//
// An address that another speaker takes over in an orderly way passes through
// the role Retiring: this node answers until it learns by gossip that the other
// one claims it. That the place of an address has changed is for its owner to
// act on: it offers the address to the node where it is placed
// ([election.Failback]). It then lingers, still answering but claiming nothing, until
// it hears the other on the wire, or a moment at most: the other's socket may be
// younger than its claim. The same goes for an owner that another one relieves because
// it has heard earlier that the owner may not have the address any more. Where two
// speakers claimed an address without hearing of each other there is no lingering: one
// has to stop, and the other is answering already.
//
// Of two that did, the loser goes on claiming for a moment what it does not answer for
// any more. Gossip does not reach all at once, and the winner must hear that there was
// a contest: it announces the address afresh, for the neighbors may have heard the
// loser last.
//
// A node that leaves does the same with everything: it says that it is leaving, and
// has left once all has been taken over, or after a bound.
//
// # Returning
//
// When a partition heals, frames cross before gossip does: the kernels of both
// sides have given up resolving each other, and try again once a second. So a
// node that hears, on the wire, a speaker that gossip has lost asks it for its own
// address. Question and answer teach both kernels where the other is, gossip
// gets through, and the claims decide.
//
// # Where gossip is lost
//
// While gossip does not reach a node whose speaker is heard on the segment, the two
// settle by questions there who answers for what both own: docs/design/gossip-cut.md.
//
// # Foreign stations
//
// An address that is not known to be in service is not claimed before its segment
// was asked ([layer2.ACD]): until then this node is its owner by election, answers
// for nothing and claims nothing, so the others see no claim and elect the same
// owner. What is known to be in service is claimed at once. Which stations are
// foreign is for the [ConflictTracker] to find out, so that speakers never are.
//
// # Proof
//
// What is answered for is asked for as a client would, by another node and by its
// owner: package proof decides when, and what the answers mean. And a claim by a
// node's station that gossip does not explain is told: its kernel has the address, or
// its speaker is not heard.
package core
