package core

import (
	"maps"
	"net/netip"
	"time"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// KnockPause is the least time between two questions to a speaker that was heard on
// the wire though it is no member (docs/design/announcing.md).
const KnockPause = 200 * time.Millisecond

// neighbors are the speakers that were ever members, and the stations of their
// nodes.
type neighbors struct {
	// stations are the nodes' interfaces by hardware address, also of nodes that
	// are gone. The map is replaced, never changed.
	stations map[lb.MAC]string
	speakers map[string]*neighbor
	// joined is set once gossip has reached anybody.
	joined bool
}

// A neighbor is another node's speaker.
type neighbor struct {
	address netip.Addr
	member  bool
	// told is set once gossip told its interfaces.
	told bool
	// alive is set once it was.
	alive   bool
	knocked time.Time
	// lost is since when it was not well; zero while it is.
	lost time.Time
}

func newNeighbors() neighbors {
	return neighbors{stations: map[lb.MAC]string{}, speakers: map[string]*neighbor{}}
}

// meet remembers who has which interfaces, who is a member, and since when one
// is not well.
func (n *neighbors) meet(now time.Time, members []election.Member) {
	n.joined = n.joined || len(members) > 1
	for _, other := range n.speakers {
		other.member = false
	}
	var fresh map[lb.MAC]string
	for i := range members {
		m := &members[i]
		other := n.speakers[m.Node]
		if other == nil {
			other = &neighbor{}
			n.speakers[m.Node] = other
		}
		other.address, other.member, other.alive = m.Address, true, other.alive || m.State == election.Alive
		other.told = other.told || len(m.Interfaces) > 0
		if m.State != election.Suspected && m.State != election.Stalled && m.State != election.Cut {
			other.lost = time.Time{}
		} else if other.lost.IsZero() {
			other.lost = now
		}
		for _, i := range m.Interfaces {
			if n.stations[i.MAC] != m.Node {
				if fresh == nil {
					fresh = maps.Clone(n.stations)
				}
				fresh[i.MAC] = m.Node
			}
		}
	}
	if fresh != nil {
		n.stations = fresh
	}
	for _, other := range n.speakers {
		if !other.member && other.lost.IsZero() {
			other.lost = now
		}
	}
}

// identify takes note of a station that turned out to be a node's.
func (n *neighbors) identify(mac lb.MAC, is NodeAddress) {
	n.stations = maps.Clone(n.stations)
	n.stations[mac] = is.Node
	if n.speakers[is.Node] == nil {
		n.speakers[is.Node] = &neighbor{address: is.Address}
	}
}

// met reports whether a node's speaker was ever a live member.
func (n *neighbors) met(node string) bool {
	other := n.speakers[node]
	return other != nil && other.alive
}

// silence returns how long a node has not been well.
func (n *neighbors) silence(now time.Time, node string) time.Duration {
	if other := n.speakers[node]; other != nil && !other.lost.IsZero() {
		return now.Sub(other.lost)
	}
	return 0
}

// knock says whether to ask a speaker for its own address that is heard on the wire
// though gossip has lost it: a partition is healing. What matters is not the answer
// but that by question and answer both kernels learn, at once, where the other is.
// They gave up asking each other, and by themselves would do so once a second;
// gossip knocks all the time, and gets through as soon as they know.
func (n *neighbors) knock(now time.Time, node string) (address netip.Addr, knocks bool) {
	other := n.speakers[node]
	if other == nil || other.member || !other.knocked.IsZero() && now.Sub(other.knocked) < KnockPause {
		return netip.Addr{}, false
	}
	other.knocked = now
	return other.address, true
}
