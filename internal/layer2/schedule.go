package layer2

import (
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Form is a kind of gratuitous packet.
type Form uint8

// The forms. Hosts differ in which form of ARP updates their caches, so both
// are sent (RFC 5227 section 3).
const (
	// GratuitousRequest is an ARP request whose sender and target are the
	// address.
	GratuitousRequest Form = iota
	// GratuitousReply is an ARP reply of the same content.
	GratuitousReply
	// UnsolicitedAdvertisement is a Neighbor Advertisement to all nodes (RFC
	// 4861 section 7.2.6).
	UnsolicitedAdvertisement
)

// Forms are all forms, for metrics.
var Forms = [...]Form{GratuitousRequest, GratuitousReply, UnsolicitedAdvertisement}

var formNames = [...]string{"arp-request", "arp-reply", "advertisement"}

// String returns the form's name, as metrics show it.
func (f Form) String() string { return formNames[f] }

// A Gratuitous is one packet to send without being asked.
type Gratuitous struct {
	Interface int
	Address   netip.Addr
	Form      Form
}

// A Pace bounds what a Schedule sends.
type Pace struct {
	// Rate is the most gratuitous packets that leave an interface within any
	// second.
	Rate int
	// Refresh is how long after its last announcement an address is announced
	// again; 0 is never.
	Refresh time.Duration
}

// rounds are the waits before the second and the third announcement of an
// acquisition. Three, at least a second apart, is what RFC 4861 section 7.2.6 permits
// (MAX_NEIGHBOR_ADVERTISEMENT, RetransTimer); for ARP, RFC 5227 section 2.3 asks
// for two, two seconds apart, and the last two are (docs/design/announcing.md).
var rounds = [...]time.Duration{time.Second, 2 * time.Second}

// A Schedule decides when to announce which address.
//
// An address that is newly claimed on an interface, or whose interface comes
// up or changes its hardware address, is announced in three rounds and from
// then on refreshed. Each interface has a budget of its own. When the budget
// does not suffice, what has been announced least goes first: every address is
// announced once before any is announced twice, and refreshing waits for all.
//
// A Schedule is driven: Update says what is wanted, Next returns what to send
// and when to ask again. Time never runs backwards between calls.
type Schedule struct {
	pace  Pace
	ports map[int]*port
	epoch uint64
}

// NewSchedule returns an empty schedule.
func NewSchedule(pace Pace) *Schedule {
	pace.Rate = max(1, pace.Rate)
	return &Schedule{pace: pace, ports: map[int]*port{}}
}

// A port is the part of a Schedule that belongs to one interface.
type port struct {
	mac     lb.MAC
	ready   bool
	entries map[netip.Addr]*entry
	// queues hold entries by the step that is next for them. Everything enters
	// a queue a fixed time before it is due, so each is sorted by due time. An
	// entry that is not (any more) the one in entries is a leftover.
	queues [steps][]*entry
	// full is when the budget's bucket will be full again.
	full time.Time
}

type entry struct {
	address netip.Addr
	due     time.Time
	epoch   uint64
}

// Steps of an entry, in order of precedence: per round the request form (for
// IPv6, the advertisement), then the reply form, which IPv6 lacks; then refresh.
const (
	steps   = 2*(1+len(rounds)) + 1
	refresh = steps - 1
)

func formAt(step int, a netip.Addr) Form {
	switch {
	case a.Is6():
		return UnsolicitedAdvertisement
	case step%2 == 1:
		return GratuitousReply
	default:
		return GratuitousRequest
	}
}

// after returns the step that follows, and how long after.
func (s *Schedule) after(step int, a netip.Addr) (int, time.Duration) {
	if step == refresh {
		return refresh, s.pace.Refresh
	}
	if step++; a.Is6() {
		step++ // it has one form
	}
	switch {
	case step == refresh:
		return refresh, s.pace.Refresh
	case step%2 == 1:
		return step, 0
	default:
		return step, rounds[step/2-1]
	}
}

// Update installs the complete set of claims and the node's interfaces.
// Announcements of what is not in it any more are forgotten.
func (s *Schedule) Update(now time.Time, claims []Claim, interfaces []lb.Interface) {
	s.epoch++
	present := make(map[int]bool, len(interfaces))
	for _, i := range interfaces {
		present[i.Index] = true
		p := s.ports[i.Index]
		if p == nil {
			p = &port{entries: map[netip.Addr]*entry{}}
			s.ports[i.Index] = p
		}
		if i.MAC != p.mac {
			clear(p.entries)
		}
		p.ready, p.mac = i.Fault() == lb.InterfaceOK, i.MAC
	}
	for index := range s.ports {
		if !present[index] {
			delete(s.ports, index)
		}
	}
	for _, c := range claims {
		for _, index := range c.Interfaces {
			p := s.ports[index]
			if p == nil || !p.ready {
				continue
			}
			if e := p.entries[c.Address]; e != nil {
				e.epoch = s.epoch
			} else {
				p.start(now, c.Address, s.epoch)
			}
		}
	}
	for _, p := range s.ports {
		for a, e := range p.entries {
			if e.epoch != s.epoch {
				delete(p.entries, a)
			}
		}
	}
}

// Restart announces everything on an interface afresh: its neighbors may have
// forgotten us.
func (s *Schedule) Restart(now time.Time, ifindex int) {
	p := s.ports[ifindex]
	if p == nil {
		return
	}
	again := make([]netip.Addr, 0, len(p.entries))
	for a := range p.entries {
		again = append(again, a)
	}
	slices.SortFunc(again, netip.Addr.Compare)
	for _, a := range again {
		p.start(now, a, s.epoch)
	}
}

// Announce announces one address afresh wherever it is claimed: another station
// may have been heard with it.
func (s *Schedule) Announce(now time.Time, address netip.Addr) {
	for _, p := range s.ports {
		if p.entries[address] != nil {
			p.start(now, address, s.epoch)
		}
	}
}

// Defend returns the one packet per interface with which an address is defended
// (RFC 5227 section 2.4 (c)): to be sent now, and left out where the budget is
// spent. What is scheduled stays as it is.
func (s *Schedule) Defend(now time.Time, address netip.Addr) (packets []Gratuitous) {
	for index, p := range s.ports {
		if p.entries[address] == nil || s.pace.permits(p.full).After(now) {
			continue
		}
		p.full = s.pace.spend(p.full, now)
		packets = append(packets, Gratuitous{index, address, formAt(0, address)})
	}
	return packets
}

// Next appends to packets what is to be sent at now, and returns when there
// may be more; the zero time when there will be nothing.
func (s *Schedule) Next(now time.Time, packets []Gratuitous) ([]Gratuitous, time.Time) {
	var wake time.Time
	for index, p := range s.ports {
		var next time.Time
		if packets, next = s.drain(now, index, p, packets); !next.IsZero() && (wake.IsZero() || next.Before(wake)) {
			wake = next
		}
	}
	return packets, wake
}

func (s *Schedule) drain(now time.Time, index int, p *port, packets []Gratuitous) ([]Gratuitous, time.Time) {
	for {
		step, due := p.first(now)
		if step < 0 || due.After(now) {
			return packets, due
		}
		if at := s.pace.permits(p.full); at.After(now) {
			return packets, at
		}
		p.full = s.pace.spend(p.full, now)
		e := p.queues[step][0]
		p.queues[step] = p.queues[step][1:]
		packets = append(packets, Gratuitous{index, e.address, formAt(step, e.address)})
		then, wait := s.after(step, e.address)
		if then == refresh && s.pace.Refresh <= 0 {
			continue
		}
		e.due = now.Add(wait)
		p.queues[then] = append(p.queues[then], e)
	}
}

// first returns the step whose turn it is: the lowest that is due, or else the
// one that will be due first. It returns -1 when there is none.
func (p *port) first(now time.Time) (int, time.Time) {
	soonest, due := -1, time.Time{}
	for step := range p.queues {
		q := p.queues[step]
		for len(q) > 0 && p.entries[q[0].address] != q[0] {
			q = q[1:]
		}
		p.queues[step] = q
		if len(q) == 0 {
			continue
		}
		if !q[0].due.After(now) {
			return step, q[0].due
		}
		if due.IsZero() || q[0].due.Before(due) {
			soonest, due = step, q[0].due
		}
	}
	return soonest, due
}

func (p *port) start(now time.Time, a netip.Addr, epoch uint64) {
	e := &entry{address: a, due: now, epoch: epoch}
	p.entries[a] = e
	p.queues[0] = append(p.queues[0], e)
}

// The budget is a bucket that holds depth packets and gains one every interval.
// Within any second at most depth packets that were saved and those gained
// meanwhile can leave, so depth plus gain is the rate: a tenth of it may leave
// at once.
func (p Pace) bucket() (depth int, interval time.Duration) {
	depth = max(1, p.Rate/10)
	gain := time.Duration(p.Rate - depth + 1)
	return depth, (time.Second + gain - 1) / gain
}

// permits returns from when a packet may be sent, given when the bucket will be
// full.
func (p Pace) permits(full time.Time) time.Time {
	depth, interval := p.bucket()
	return full.Add(-time.Duration(depth-1) * interval)
}

// spend returns when the bucket will be full after a packet at now.
func (p Pace) spend(full, now time.Time) time.Time {
	_, interval := p.bucket()
	if full.Before(now) {
		full = now
	}
	return full.Add(interval)
}
