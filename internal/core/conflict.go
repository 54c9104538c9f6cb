package core

import (
	"container/list"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// The bounds of what it does about foreign stations: docs/design/announcing.md.
const (
	// Acquaintance is how long a station with an unknown hardware address is
	// given to turn out to be a node's: frames overtake gossip.
	Acquaintance = time.Second
	// ConflictPause is how long a foreign station must not have been heard to be
	// reported anew, and conflictsMost how many are remembered.
	ConflictPause = 10 * time.Minute
	conflictsMost = 4096
	// defendInterval is RFC 5227's DEFEND_INTERVAL: the least time between two
	// defenses of an address.
	defendInterval = 10 * time.Second
	// unmetMost bounds how many nodes that were never members are asked whether a
	// station is theirs, and identifyMost about how many stations at once.
	unmetMost    = 64
	identifyMost = 4
)

// A ConflictTracker follows the foreign stations that use addresses of ours: it
// suspects, has the station identified, confirms, and reports.
//
// Two speakers never take each other for foreign. Every speaker's hardware
// addresses are known by gossip, of those that are gone, too; what gossip may not
// have told yet is waited for; and a node that never was a member is asked, by the
// addresses that the API server knows of it, whether the station is its own.
type ConflictTracker struct {
	by map[use]*sighting
	// order has the sightings, the one heard longest ago first, so that room is
	// made without looking at all of them.
	order list.List
	// suspects are those not confirmed yet, the next to be confirmed first.
	suspects []use
	// identifying are the stations that are being asked about.
	identifying map[Station]bool
	// defended is when an address was defended last.
	defended map[netip.Addr]time.Time
}

// A use is of an address by a station.
type use struct {
	address netip.Addr
	mac     lb.MAC
}

// A sighting is what was heard of a use.
type sighting struct {
	use
	last layer2.Heard
	at   *list.Element // In the order of the tracker.
	// suspected until due; frames were counted meanwhile.
	suspected bool
	due       time.Time
	frames    int
}

func newConflictTracker() ConflictTracker {
	return ConflictTracker{by: map[use]*sighting{}, identifying: map[Station]bool{}, defended: map[netip.Addr]time.Time{}}
}

// due returns when a suspect is to be confirmed; zero for never.
func (t *ConflictTracker) due() time.Time {
	if len(t.suspects) == 0 {
		return time.Time{}
	}
	return t.by[t.suspects[0]].due
}

// remembers makes room for one more, and reports whether there is some. A
// suspicion ends long before its sighting is old.
func (t *ConflictTracker) remembers(now time.Time) bool {
	for first := t.order.Front(); first != nil; first = t.order.Front() {
		s := first.Value.(*sighting)
		if s.suspected || now.Sub(s.last.At) < ConflictPause {
			break
		}
		t.forget(s)
	}
	return len(t.by) < conflictsMost
}

func (t *ConflictTracker) forget(s *sighting) {
	delete(t.by, s.use)
	t.order.Remove(s.at)
}

// heard takes note of one more frame.
func (t *ConflictTracker) heard(s *sighting, h layer2.Heard) {
	s.last = h
	t.order.MoveToBack(s.at)
}

// suspect takes note of a claim by a station that is not known.
func (c *Core) suspect(now time.Time, h layer2.Heard) {
	h.At = now
	t, key := &c.conflicts, use{h.Address, h.MAC}
	s := t.by[key]
	switch {
	case s == nil && !t.remembers(now):
		c.count(h.MAC, 1)
	case s == nil:
		s = &sighting{use: key, last: h, suspected: true, due: now.Add(Acquaintance), frames: 1}
		s.at = t.order.PushBack(s)
		t.by[key] = s
		t.suspects = append(t.suspects, key)
		if len(t.identifying) < identifyMost {
			c.identify(Station{h.Interface, h.MAC})
		}
	case s.suspected:
		s.frames++
		t.heard(s, h)
	default:
		news := now.Sub(s.last.At) >= ConflictPause
		t.heard(s, h)
		c.count(h.MAC, 1)
		c.oppose(now, h, news)
	}
}

// acquit ends the suspicions of a station that turned out to be a node's: its speaker
// was heard.
func (c *Core) acquit(now time.Time, mac lb.MAC) {
	t := &c.conflicts
	var heard []layer2.Heard
	t.suspects = slices.DeleteFunc(t.suspects, func(key use) bool {
		if key.mac != mac {
			return false
		}
		s := t.by[key]
		t.forget(s)
		heard = append(heard, s.last)
		return true
	})
	for _, h := range heard {
		c.Hear(now, h)
	}
}

func (c *Core) count(mac lb.MAC, frames int) {
	c.out.Frames = append(c.out.Frames, Frames{mac, frames})
}

// confirm ends the suspicions whose time has come.
func (c *Core) confirm(now time.Time) {
	t := &c.conflicts
	for len(t.suspects) > 0 && !now.Before(t.due()) {
		key := t.suspects[0]
		t.suspects = t.suspects[1:]
		s := t.by[key]
		if node, known := c.neighbors.stations[key.mac]; known {
			if !c.owns(key.address) || node == c.cfg.Node {
				t.forget(s)
			} else {
				s.suspected = false
				c.expose(now, s, node)
			}
			continue
		}
		s.suspected = false
		c.count(key.mac, s.frames)
		h := s.last
		h.At = now
		c.oppose(now, h, true)
	}
}

// oppose does what the policy says about a foreign station's claim, and reports it
// if it is news.
func (c *Core) oppose(now time.Time, h layer2.Heard, news bool) {
	d, _ := c.intent.Decision(h.Address)
	last, before := c.conflicts.defended[h.Address]
	switch {
	case d.Role == election.Backup, !c.acd.Cleared(h.Address):
		return // not ours, or withheld already
	case d.Conflict == lb.ConflictWithhold && c.acd.Yields(now, h, d.Interfaces):
		c.out.Conflicts = append(c.out.Conflicts, Conflict{Heard: h, Services: d.Services, Withheld: true})
		c.due = true
		return
	case d.Conflict == lb.ConflictDefend && (!before || now.Sub(last) >= defendInterval):
		c.conflicts.defended[h.Address] = now
		c.out.Defend = append(c.out.Defend, h.Address)
	}
	if news {
		c.out.Conflicts = append(c.out.Conflicts, Conflict{Heard: h, Services: d.Services})
	}
}

// identify asks the nodes that never were members whether a station is theirs. It
// reports whether there is anything to ask.
func (c *Core) identify(s Station) bool {
	if c.conflicts.identifying[s] {
		return true
	}
	q := Identify{Station: s}
	nodes := 0
	for _, n := range c.nodes {
		if s := c.neighbors.speakers[n.Name]; n.Name == c.cfg.Node || s != nil && s.told {
			continue
		}
		if nodes++; nodes > unmetMost {
			break
		}
		for _, a := range n.Addresses {
			if c.onLink(s.Interface, a) {
				q.Candidates = append(q.Candidates, NodeAddress{n.Name, a})
			}
		}
	}
	if len(q.Candidates) == 0 {
		return false
	}
	c.conflicts.identifying[s] = true
	c.out.Identify = append(c.out.Identify, q)
	return true
}

func (c *Core) onLink(ifindex int, a netip.Addr) bool {
	return slices.ContainsFunc(c.interfaces, func(i lb.Interface) bool { return i.Index == ifindex && i.OnLink(a) })
}

// Identified answers an Identify: the station is that node's, at that address, or,
// if that is the zero NodeAddress, none's.
func (c *Core) Identified(now time.Time, s Station, is NodeAddress) {
	delete(c.conflicts.identifying, s)
	if is != (NodeAddress{}) {
		c.neighbors.identify(s.MAC, is)
		c.acquit(now, s.MAC)
	}
	c.conclude(now)
}

// An inquiry was answered by the segment, and waits until the stations that it has
// found are identified.
type inquiry struct {
	layer2.Inquiry
	found  []layer2.Heard
	failed bool
}

// detect asks what is due.
func (c *Core) detect(now time.Time) {
	if c.acdDue.IsZero() || now.Before(c.acdDue) {
		return
	}
	c.acdDue = time.Time{}
	if c.leaving {
		return
	}
	ask, wake := c.acd.Next(now)
	c.acdDue = wake
	if len(ask) == 0 {
		return
	}
	// What those use whom gossip does not reach matters.
	stations := maps.Clone(c.neighbors.stations)
	maps.DeleteFunc(stations, func(_ lb.MAC, node string) bool { return node != c.cfg.Node && !c.reaches(node) })
	for _, q := range ask {
		c.out.Detect = append(c.out.Detect, Detect{q, stations})
	}
}

// Detected answers a Detect: found are the stations that use addresses; failed says
// that the segment could not be asked.
func (c *Core) Detected(now time.Time, q layer2.Inquiry, found []layer2.Heard, failed bool) {
	for _, h := range found {
		if _, known := c.neighbors.stations[h.MAC]; !known {
			c.identify(Station{h.Interface, h.MAC})
		}
	}
	c.inquiries = append(c.inquiries, inquiry{q, found, failed})
	c.conclude(now)
}

// conclude takes in the inquiries of which all is known.
func (c *Core) conclude(now time.Time) {
	c.inquiries = slices.DeleteFunc(c.inquiries, func(q inquiry) bool {
		if slices.ContainsFunc(q.found, func(h layer2.Heard) bool { return c.conflicts.identifying[Station{h.Interface, h.MAC}] }) {
			return false
		}
		var unclear []netip.Addr
		if q.failed {
			unclear = q.Addresses
		}
		found := slices.DeleteFunc(slices.Clone(q.found), func(h layer2.Heard) bool {
			node, known := c.neighbors.stations[h.MAC]
			switch {
			case !known || q.failed:
			case h.Kind.Claims() && node != c.cfg.Node && !c.reaches(node):
				c.yield(now, h, node) // its speaker answers, and gossip does not reach it
			default:
				unclear = append(unclear, h.Address) // and a foreign station may have been drowned
			}
			return known
		})
		before := c.acd.Withheld()
		c.acd.Answer(now, q.Inquiry, found, unclear)
		for _, h := range found {
			c.count(h.MAC, 1)
			if by := before[h.Address]; by.MAC != h.MAC {
				d, _ := c.intent.Decision(h.Address)
				c.out.Conflicts = append(c.out.Conflicts, Conflict{Heard: h, Services: d.Services, Withheld: true})
			}
		}
		c.acdDue, c.due = now, true
		return true
	})
}
