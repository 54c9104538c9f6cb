package core

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// The bounds of a dispute: docs/design/gossip-cut.md.
const (
	// disputeQuestions are asked before a dispute is decided, disputePause apart. That
	// is longer than [Linger], so that no hand-over is taken for a dispute. Nor is an
	// address announced more often in answer to others: each of several that have taken
	// over has to hear it, and falls silent then.
	disputeQuestions = 4
	disputePause     = 130 * time.Millisecond
	// yieldWatch is how often the winner is asked whether it still answers, and
	// yieldMisses how often in a row it may fail to, which is asked disputePause apart.
	yieldWatch  = 300 * time.Millisecond
	yieldMisses = 3
	// askMost is how many questions may be under way.
	askMost = 16
)

// A dispute is about an address of which this node is the owner as far as gossip
// tells, and for which another node's speaker answers as well, which gossip does not
// reach. No claims can be compared, so the two are settled by what both know without
// a word: the order of the address ([election.Precedes]).
//
// The one that comes first announces the address at once: the other may not have heard
// it. The other asks it, and if it goes on answering for longer than any hand-over
// lasts, yields: it stops answering and goes on claiming, so that those whom its gossip
// does reach do not take over. It asks again and again, and resumes when no station answers.
// When gossip reaches the other the claims decide.
type dispute struct {
	// Station is the one that comes first of those heard; with the zero hardware
	// address it is any station that answers.
	Station
	node string
	// yields is set once this node has given way.
	yields bool
	// asked counts the questions, missed those at the end that were not answered.
	asked, missed int
	asking        bool
	due           time.Time
}

// An insistence is an address that is to be announced because another speaker claims it,
// too, or was.
type insistence struct {
	mac lb.MAC    // of the other
	due time.Time // zero once it was
}

// reaches reports whether gossip reaches a node's speaker, so that its claims are
// known.
func (c *Core) reaches(node string) bool {
	i, listed := find(c.members, node)
	return listed && (c.members[i].State == election.Alive || c.members[i].State == election.Leaving)
}

// dispute takes note that the speaker of another node, which gossip does not reach,
// claims an address that this node owns.
func (c *Core) dispute(now time.Time, h layer2.Heard, node string) {
	switch d := c.disputes[h.Address]; {
	case election.Precedes(h.Address, c.cfg.Node, node):
		last := c.announced[h.Address]
		in := c.insisting[h.Address]
		if !in.due.IsZero() || in.mac == h.MAC && now.Sub(last) < disputePause {
			return // it will hear, or was answered: it announces by several frames at once
		}
		c.insisting[h.Address] = insistence{mac: h.MAC, due: later(now, last.Add(disputePause))}
	case d == nil || !d.yields && election.Precedes(h.Address, node, d.node):
		c.disputes[h.Address] = &dispute{Station: Station{h.Interface, h.MAC}, node: node, due: now}
	}
}

// yield gives way to the speaker of another node that answers for an address already.
func (c *Core) yield(now time.Time, h layer2.Heard, node string) {
	c.disputes[h.Address] = &dispute{Station: Station{h.Interface, h.MAC}, node: node, yields: true, due: now.Add(yieldWatch)}
}

// yields reports whether this node has given way to another one about an address.
func (c *Core) yields(a netip.Addr) bool {
	d := c.disputes[a]
	return d != nil && d.yields
}

// settleDisputes ends the disputes that are not this node's any more, or that gossip
// settles.
func (c *Core) settleDisputes() {
	maps.DeleteFunc(c.disputes, func(a netip.Addr, d *dispute) bool {
		decision, _ := c.intent.Decision(a)
		if decision.Role == election.Backup || c.reaches(d.node) {
			return true
		}
		return d.MAC == lb.MAC{} && slices.ContainsFunc(c.members, func(m election.Member) bool {
			return m.Node != c.cfg.Node && !m.Claims[a].None() && c.reaches(m.Node) // it is who answers
		})
	})
}

// askDisputed asks what is due, the longest due first.
func (c *Core) askDisputed(now time.Time) {
	if c.leaving {
		return
	}
	room := askMost
	var due []netip.Addr
	for a, d := range c.disputes {
		switch {
		case d.asking:
			room--
		case !now.Before(d.due):
			due = append(due, a)
		}
	}
	slices.SortFunc(due, func(a, b netip.Addr) int {
		if r := c.disputes[a].due.Compare(c.disputes[b].due); r != 0 {
			return r
		}
		return a.Compare(b)
	})
	for _, a := range due[:min(len(due), max(room, 0))] {
		c.disputes[a].asking = true
		c.out.Ask = append(c.out.Ask, Ask{c.disputes[a].Station, a})
	}
}

// nextDispute returns when to ask again, or to insist; zero for never, or once a
// question is answered.
func (c *Core) nextDispute() (next time.Time) {
	asking := 0
	for _, d := range c.disputes {
		switch {
		case d.asking:
			asking++
		case next.IsZero() || d.due.Before(next):
			next = d.due
		}
	}
	if c.leaving || asking >= askMost {
		next = time.Time{}
	}
	for _, in := range c.insisting {
		if !in.due.IsZero() && (next.IsZero() || in.due.Before(next)) {
			next = in.due
		}
	}
	return next
}

// Asked answers an Ask: whether the station answers for the address.
func (c *Core) Asked(now time.Time, q Ask, answered bool) {
	d := c.disputes[q.Address]
	if d == nil || !d.asking || d.Station != q.Station {
		return
	}
	d.asking = false
	d.asked++
	d.due = now.Add(disputePause)
	if d.missed++; answered {
		d.missed = 0
	}
	switch {
	case d.yields && d.missed >= yieldMisses:
		c.resumed[q.Address] = d.node
		delete(c.disputes, q.Address)
		c.due, c.urgent = true, true
	case d.yields && answered:
		d.due = now.Add(yieldWatch)
	case d.yields:
		d.MAC = lb.MAC{} // another one may have it by now, which is as good
	case d.asked < disputeQuestions:
	case !answered:
		delete(c.disputes, q.Address) // it was about to stop
	default:
		d.yields, d.due = true, now.Add(yieldWatch)
		c.due, c.urgent = true, true
	}
}

// insistDue announces the addresses that other speakers claim, too, which this node comes
// first for.
func (c *Core) insistDue(now time.Time) {
	for _, a := range slices.SortedFunc(maps.Keys(c.insisting), netip.Addr.Compare) {
		in := c.insisting[a]
		switch {
		case in.due.IsZero() && now.Sub(c.announced[a]) >= RivalPause:
			delete(c.insisting, a)
			continue
		case in.due.IsZero(), now.Before(in.due):
			continue
		}
		c.insisting[a] = insistence{mac: in.mac}
		if d, _ := c.intent.Decision(a); d.Role == election.Owner && !c.yields(a) {
			c.insist(now, a)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// insist announces an address that another speaker claims, too.
func (c *Core) insist(now time.Time, a netip.Addr) {
	c.announced[a] = now
	c.out.Rivals++
	c.out.Announce = append(c.out.Announce, a)
}
