package election

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Watch is a session by which two speakers watch each other on a segment: this
// node's end of it. The other node's end is the same with Local and Remote swapped.
type Watch struct {
	Node          string
	Interface     int
	Local, Remote netip.Addr
}

// A Stander is a member that can be watched, as far as the ring is concerned.
type Stander struct {
	Node string
	// Spot is where it stands, which SpotOf says.
	Spot uint64
	// Interfaces are those it announces on, Management others: see [Member].
	Interfaces, Management []lb.Interface
	// Owns is set when it answers for any address.
	Owns bool
}

// A Ring is what one node does to watch and to be watched.
type Ring struct {
	// Watches are its sessions.
	Watches []Watch
	// Soundings are questions that tell how late a segment's answers are, one for
	// each segment on which anything is owned.
	Soundings []SegmentQuestion
}

// RingOf returns the part of one node in the watching of all.
//
// The members of a segment stand on a ring, in the order of their names' hashes. Two
// neighbors have a session if either of them owns an address. So each owner is
// watched by two others, a node has two sessions on a segment at most, however large
// the cluster is, and none where nothing is owned; and a member that comes or goes
// changes no sessions but those of its two neighbors.
//
// Both ends must come to the same session by themselves. They do if they know the
// same interfaces of each other: of all pairs of addresses each of which is on-link
// for the other end the smallest is taken. What is left where they do not is a
// session that does not come up, and gossip.
//
// Members that share no segment on which both announce, because their interfaces there
// have no addresses or subnets of their own, stand on a ring of their management
// network, if that is a segment.
//
// See docs/design/detection.md.
func RingOf(self Stander, others []Stander) Ring {
	var r Ring
	for _, segment := range segmentsOf(self.Interfaces) {
		r.join(self, others, segment, func(o *Stander) []lb.Interface { return o.Interfaces })
	}
	for _, segment := range segmentsOf(self.Management) {
		r.join(self, others, segment, func(o *Stander) []lb.Interface {
			if _, shared := pairOf(self.Interfaces, o.Interfaces); shared {
				return nil
			}
			return o.Management
		})
	}
	return r
}

// join adds the sessions with the neighbors on a segment, of those that have interfaces
// on it.
func (r *Ring) join(self Stander, others []Stander, segment []lb.Interface, interfaces func(*Stander) []lb.Interface) {
	var before, after neighbor
	owned := self.Owns
	for i := range others {
		o := &others[i]
		p, shared := pairOf(segment, interfaces(o))
		if !shared {
			continue
		}
		owned = owned || o.Owns
		// How far it is to go from here, and from there.
		to, from := o.Spot-self.Spot, self.Spot-o.Spot
		if after.Stander == nil || to < after.distance || to == after.distance && o.Node < after.Node {
			after = neighbor{o, to, p}
		}
		if before.Stander == nil || from < before.distance || from == before.distance && o.Node < before.Node {
			before = neighbor{o, from, p}
		}
	}
	if after.Stander == nil || !owned {
		return
	}
	r.Soundings = append(r.Soundings, SegmentQuestion{after.iface, after.remote, after.mac})
	for _, n := range []neighbor{before, after} {
		w := Watch{n.Node, n.iface, n.local, n.remote}
		if (self.Owns || n.Owns) && !slices.Contains(r.Watches, w) {
			r.Watches = append(r.Watches, w)
		}
	}
}

// A neighbor is another one on the ring, so far from here.
type neighbor struct {
	*Stander
	distance uint64
	pair
}

// SpotOf returns where a node stands on the ring.
func SpotOf(node string) uint64 {
	h := sha256.Sum256([]byte(node))
	return binary.BigEndian.Uint64(h[:])
}

// Equal reports whether two are the same.
func (r Ring) Equal(o Ring) bool {
	return slices.Equal(r.Watches, o.Watches) && slices.Equal(r.Soundings, o.Soundings)
}

// segmentsOf groups interfaces that are on one segment: a subnet of theirs is the
// same.
func segmentsOf(interfaces []lb.Interface) [][]lb.Interface {
	var segments [][]lb.Interface
	for _, i := range interfaces {
		if i.Fault() != lb.InterfaceOK {
			continue
		}
		merged := []lb.Interface{i}
		segments = slices.DeleteFunc(segments, func(s []lb.Interface) bool {
			same := slices.ContainsFunc(s, func(o lb.Interface) bool { return SameSegment(i, o) })
			if same {
				merged = append(slices.Clone(s), merged...)
			}
			return same
		})
		segments = append(segments, merged)
	}
	return segments
}

// SameSegment reports whether two interfaces of a node are on one segment: they have a
// subnet in common. Every interface has the link-local one.
func SameSegment(a, b lb.Interface) bool {
	return slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool { return !p.Addr().IsLinkLocalUnicast() && in(b, p.Masked()) })
}

func in(i lb.Interface, subnet netip.Prefix) bool {
	return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Masked() == subnet })
}

// A pair is where a session runs: an interface, the address there and the one at the
// other end, and whose that is.
type pair struct {
	iface         int
	local, remote netip.Addr
	mac           lb.MAC
}

// pairOf returns the pair that both ends choose, if they have any.
func pairOf(ours, theirs []lb.Interface) (best pair, found bool) {
	for _, i := range ours {
		for _, o := range theirs {
			for _, p := range i.Addresses {
				for _, q := range o.Addresses {
					x, y := p.Addr(), q.Addr()
					if x == y || x.IsLinkLocalUnicast() || !p.Contains(y) || !q.Contains(x) {
						continue
					}
					if c := (pair{i.Index, x, y, o.MAC}); !found || c.less(best) {
						best, found = c, true
					}
				}
			}
		}
	}
	return best, found
}

// less orders pairs in the same way at both ends.
func (p pair) less(o pair) bool {
	low, high := sorted(p.local, p.remote)
	low2, high2 := sorted(o.local, o.remote)
	return cmp.Or(low.Compare(low2), high.Compare(high2)) < 0
}

func sorted(a, b netip.Addr) (low, high netip.Addr) {
	if b.Less(a) {
		return b, a
	}
	return a, b
}
