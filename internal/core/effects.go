package core

import (
	"net/netip"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
)

// Effects are what is to be done, in the order of the fields: the wire first, then
// gossip. What is nil is as it was.
type Effects struct {
	// Claims are all that this node answers for, ascending.
	Claims []layer2.Claim
	// Gossip is what it says of itself.
	Gossip *election.Local
	// Peers are the addresses at which other speakers should be.
	Peers []netip.Addr
	// Move is the address at which to gossip from now on; zero: where it does.
	Move netip.Addr

	// Announce are addresses to announce afresh, Defend those to claim with a
	// single packet.
	Announce, Defend []netip.Addr
	// Detect, Identify, Ask, Prove and Knock are questions to put on segments. All but
	// the last want an answer, by [Core.Detected], [Core.Identified], [Core.Asked] and
	// [Core.Proved].
	Detect   []Detect
	Identify []Identify
	Ask      []Ask
	Prove    []proof.Question
	Knock    []Knock

	// View is what this node does, and on what grounds.
	View *View
	// Transitions are what it has begun to answer for and ceased to.
	Transitions []Transition
	// Conflicts are foreign stations that use addresses of ours, to be told of;
	// Frames are how many frames said so.
	Conflicts []Conflict
	Frames    []Frames
	// Faults are what segments answered that they should not, and no longer do.
	Faults []proof.Change
	// Rivals counts the claims of other speakers to what this node owns, and Won
	// are the addresses that another one claimed, too, and has let go.
	Rivals int
	Won    []netip.Addr

	// Next is when to call Settle again, unless something happens before; zero for
	// never.
	Next time.Time
	// Left is set once a node that leaves has handed over what it can. It answers
	// for nothing any more.
	Left bool
}

// A View is what a node does at one moment, and on what grounds. It does not
// change.
type View struct {
	Index      *announce.Index
	Interfaces []lb.Interface
	Members    []election.Member
	Intent     announce.Intent
	// Answers are the addresses that the node answers for, ascending.
	Answers []Answer
	// Offered are those of them that it offers to the node where they are placed.
	Offered []netip.Addr
	// Detection is how its failure is detected.
	Detection lb.Detection
	// Withheld are the addresses that it owns and does not answer for: a foreign
	// station uses them, or, where there is none yet, their segment is being
	// asked.
	Withheld map[netip.Addr]layer2.Heard
	// Proofs are what the segment says of what others answer for, as far as this node
	// asks about it, and who else answers for what this node does; ascending by address.
	Proofs []proof.Result
	// Response is what came of the last Request; nil for none.
	Response *proof.Response
}

// Claims are the claims of its Answers.
func (v View) Claims() []layer2.Claim {
	claims := make([]layer2.Claim, len(v.Answers))
	for i, a := range v.Answers {
		claims[i] = a.Claim
	}
	return claims
}

// An Answer is an address that a node answers for, and how it came to do so.
type Answer struct {
	layer2.Claim
	// Since is when it began, Cause why, and From the node that owned the address
	// before; empty for none.
	Since time.Time
	Cause Cause
	From  string
}

// A Detect asks who uses addresses on the segment of an interface: RFC 5227, RFC
// 4862.
type Detect struct {
	layer2.Inquiry
	// Stations are those of the nodes that gossip reaches, by hardware address: what
	// they use need not be told. It is not to be changed.
	Stations map[lb.MAC]string
}

// OfNode reports whether a hardware address is one of Stations.
func (d Detect) OfNode(mac lb.MAC) bool { _, is := d.Stations[mac]; return is }

// An Identify asks to which of some nodes a station on the segment of an interface
// belongs: its kernel answers for that node's address.
type Identify struct {
	Station
	Candidates []NodeAddress
}

// A Station is a hardware address on the segment of an interface.
type Station struct {
	Interface int
	MAC       lb.MAC
}

// A NodeAddress is an address of a node.
type NodeAddress struct {
	Node    string
	Address netip.Addr
}

// An Ask asks a station whether it answers for an address.
type Ask struct {
	Station
	Address netip.Addr
}

// A Knock asks a station for its own address, so that both kernels learn where
// the other one is. The answer itself does not matter.
type Knock struct {
	Station
	Address netip.Addr
}

// A Conflict is a foreign station's use of an address of ours, or another node's that
// gossip does not explain.
type Conflict struct {
	layer2.Heard
	Services []lb.ServiceKey
	// Node is whose station it is; empty for a foreign one.
	Node string
	// Withheld is set when this node does not answer for the address because of
	// it.
	Withheld bool
}

// Frames counts the frames by which a foreign station claims addresses of ours.
type Frames struct {
	MAC lb.MAC
	N   int
}
