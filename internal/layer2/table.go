package layer2

import (
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Claim says that this node owns an address and where it answers for it.
type Claim struct {
	Address netip.Addr
	// Interfaces are the indexes of the interfaces on which to answer and
	// announce, ascending.
	Interfaces []int
}

// Equal reports whether two claims say the same.
func (c Claim) Equal(o Claim) bool {
	return c.Address == o.Address && slices.Equal(c.Interfaces, o.Interfaces)
}

// A Table knows for which addresses to answer. It never changes, so any number
// of readers may ask it without a lock while its successor is being built.
type Table struct {
	// answers leads from an address to the set of its interfaces. Most
	// addresses share one of very few sets, so each is kept once and the map's
	// values are small.
	answers map[netip.Addr]int32
	sets    [][]int
}

// NewTable builds the table of a complete set of claims. Of two claims on one
// address the later counts.
func NewTable(claims []Claim) *Table {
	t := &Table{answers: make(map[netip.Addr]int32, len(claims))}
	for _, c := range claims {
		t.answers[c.Address] = t.set(c.Interfaces)
	}
	return t
}

func (t *Table) set(interfaces []int) int32 {
	for i, s := range t.sets {
		if slices.Equal(s, interfaces) {
			return int32(i)
		}
	}
	t.sets = append(t.sets, slices.Clone(interfaces))
	return int32(len(t.sets) - 1)
}

// Claims reports whether the address is claimed on the interface.
func (t *Table) Claims(address netip.Addr, ifindex int) bool {
	i, ok := t.answers[address]
	return ok && slices.Contains(t.sets[i], ifindex)
}

// ClaimsAnywhere reports whether the address is claimed on any interface.
func (t *Table) ClaimsAnywhere(address netip.Addr) bool {
	i, ok := t.answers[address]
	return ok && len(t.sets[i]) > 0
}

// Len returns the number of addresses.
func (t *Table) Len() int { return len(t.answers) }

// A Station is what the node's kernel has on its interfaces at one moment: the
// hardware addresses we speak with, and the addresses it answers for itself. It
// never changes.
type Station struct {
	interfaces []lb.Interface
	byIndex    map[int]int
	macs       map[lb.MAC]struct{}
	held       map[holding]struct{}
}

type holding struct {
	address netip.Addr
	ifindex int
}

// NewStation describes the node with these interfaces.
func NewStation(interfaces []lb.Interface) *Station {
	s := &Station{
		interfaces: interfaces,
		byIndex:    make(map[int]int, len(interfaces)),
		macs:       make(map[lb.MAC]struct{}, len(interfaces)),
		held:       make(map[holding]struct{}, 2*len(interfaces)),
	}
	for n, i := range interfaces {
		s.byIndex[i.Index] = n
		if i.MAC != (lb.MAC{}) {
			s.macs[i.MAC] = struct{}{}
		}
		for _, p := range i.Addresses {
			s.held[holding{p.Addr(), i.Index}] = struct{}{}
		}
	}
	return s
}

// Interfaces returns the interfaces, in the order given. Do not change them.
func (s *Station) Interfaces() []lb.Interface { return s.interfaces }

// Interface returns the interface with an index.
func (s *Station) Interface(ifindex int) (lb.Interface, bool) {
	n, ok := s.byIndex[ifindex]
	if !ok {
		return lb.Interface{}, false
	}
	return s.interfaces[n], true
}

// MAC returns the present hardware address of an interface; zero when there is
// no such interface.
func (s *Station) MAC(ifindex int) lb.MAC {
	if n, ok := s.byIndex[ifindex]; ok {
		return s.interfaces[n].MAC
	}
	return lb.MAC{}
}

// Ours reports whether a hardware address is one of the node's own.
func (s *Station) Ours(m lb.MAC) bool {
	_, ok := s.macs[m]
	return ok
}

// Holds reports whether the kernel itself has the address on the interface.
func (s *Station) Holds(address netip.Addr, ifindex int) bool {
	_, ok := s.held[holding{address, ifindex}]
	return ok
}

// A Question asks who has Target: an ARP request or a Neighbor Solicitation.
type Question struct {
	Interface int
	Target    netip.Addr
	// Sender is who asks; unspecified for an RFC 5227 probe and for duplicate
	// address detection.
	Sender    netip.Addr
	SenderMAC lb.MAC
}

// A Verdict says what becomes of a question.
type Verdict uint8

// Verdicts.
const (
	// Answered: the address is ours here.
	Answered Verdict = iota
	// NotOurs: we do not own the address.
	NotOurs
	// OtherInterface: we own the address, but not on this interface.
	OtherInterface
	// KernelHolds: the kernel has the address on this interface and answers.
	KernelHolds
	// OwnFrame: the question is our own, come back to us.
	OwnFrame
	// Announcement: the sender asks for its own address, which is a claim and
	// not a question (RFC 5227 section 2.3).
	Announcement
)

// Verdicts are all verdicts, for metrics.
var Verdicts = [...]Verdict{Answered, NotOurs, OtherInterface, KernelHolds, OwnFrame, Announcement}

var verdictNames = [...]string{"answered", "not-ours", "other-interface", "kernel-holds", "own-frame", "announcement"}

// String returns the verdict's name, as metrics show it.
func (v Verdict) String() string { return verdictNames[v] }

// Decide returns what becomes of a question.
func (t *Table) Decide(s *Station, q Question) Verdict {
	set, ok := t.answers[q.Target]
	switch {
	case !ok:
		return NotOurs
	case !slices.Contains(t.sets[set], q.Interface):
		return OtherInterface
	case q.Sender == q.Target:
		return Announcement
	case s.Ours(q.SenderMAC):
		return OwnFrame
	case s.Holds(q.Target, q.Interface):
		return KernelHolds
	default:
		return Answered
	}
}

func (c Claim) on(ifindex int) bool { return slices.Contains(c.Interfaces, ifindex) }
