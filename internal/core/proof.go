package core

import (
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
)

// Where these are from: docs/design/proof.md.
const (
	// surveyPause is how long after a change it is looked at what there is to prove.
	// Changes come in bursts, and a new owner's first announcement goes first.
	surveyPause = 100 * time.Millisecond
	// echo is how long after this node asked for an address of its own answers may come
	// that are to the question, and not what a client heard.
	echo = 3 * time.Second
)

// proofs are a Core's part in proving announcements.
type proofs struct {
	prover *proof.Prover // nil: nothing is asked.
	// survey is when to look at who owns what; zero for never. due is when there is
	// something to ask.
	survey, due time.Time
	// owners are who claims the addresses in use, and since when as far as this node
	// saw; nil before it has seen it once.
	owners map[netip.Addr]ownership
	// asked is when this node asked for addresses of its own.
	asked map[netip.Addr]time.Time
}

// An ownership is a node's of an address, since a time; zero for long ago.
type ownership struct {
	node  string
	since time.Time
}

func newProofs(cfg Config) proofs {
	if cfg.ProofInterval == 0 {
		return proofs{asked: map[netip.Addr]time.Time{}}
	}
	return proofs{prover: proof.NewProver(cfg.Node, cfg.ProofInterval), asked: map[netip.Addr]time.Time{}}
}

// stir notes that who owns what may have changed.
func (p *proofs) stir(now time.Time) {
	if p.prover != nil && p.survey.IsZero() {
		p.survey = now.Add(surveyPause)
	}
}

// prove asks what is due, and shows what was found out.
func (c *Core) prove(now time.Time) {
	p := &c.proofs
	if p.prover == nil {
		return
	}
	if !p.survey.IsZero() && !now.Before(p.survey) {
		p.survey = time.Time{}
		c.survey(now)
	}
	var ask []proof.Question
	ask, p.due = p.prover.Next(now)
	for _, q := range ask {
		for _, a := range q.Addresses() {
			if p.owners[a].node == c.cfg.Node {
				p.asked[a] = now
			}
		}
	}
	c.out.Prove = append(c.out.Prove, ask...)
	c.out.Faults = append(c.out.Faults, p.prover.Changes()...)
	if p.prover.News() {
		c.view.Proofs = p.prover.Results()
		c.show()
	}
}

// survey finds out what there is to prove: what this node owns, and what those own
// whose witness it is.
func (c *Core) survey(now time.Time) {
	p := &c.proofs
	s := surveyor{Core: c, reach: announce.NewReach(c.index, c.members), members: make(map[string]*election.Member, len(c.members)), stands: map[stand]outlook{}}
	for i := range c.members {
		s.members[c.members[i].Node] = &c.members[i]
	}
	self := s.members[c.cfg.Node]
	joined := self != nil && self.State == election.Alive
	owners := make(map[netip.Addr]ownership, len(c.intent.Decisions))
	askers := map[string]bool{}
	var subjects []proof.Subject
	for i := range c.intent.Decisions {
		d := &c.intent.Decisions[i]
		if !s.owned(d) {
			continue
		}
		is, was := p.owners[d.Address]
		if !was || is.node != d.Owner {
			is = ownership{node: d.Owner}
			if p.owners != nil {
				is.since = now
			}
		}
		owners[d.Address] = is
		on, ok := s.reach.Interface(d.Owner, d.Address)
		if !ok {
			continue
		}
		o := s.outlook(d.Owner, on)
		askers[d.Owner] = true
		if o.witness != "" {
			askers[o.witness] = true
		}
		subject := proof.Subject{Address: d.Address, Owner: d.Owner, Since: is.since}
		switch c.cfg.Node {
		case d.Owner:
			subject.Interface = on.Index
		case o.witness:
			subject.Interface, subject.Control = o.mine, o.controls[lb.FamilyOf(d.Address)]
		}
		if subject.Interface == 0 {
			continue // another node's to ask, or there is no way at the moment
		}
		subjects = append(subjects, subject)
	}
	for a, at := range p.asked {
		if now.Sub(at) >= echo {
			delete(p.asked, a)
		}
	}
	if !joined || c.leaving {
		subjects = nil
	}
	if joined {
		p.owners = owners
	}
	p.prover.Set(now, subjects, len(askers))
}

// A surveyor is the state of a survey.
type surveyor struct {
	*Core
	reach   *announce.Reach
	members map[string]*election.Member
	stands  map[stand]outlook
}

// A stand is where an owner answers.
type stand struct {
	owner string
	on    *lb.Interface
}

// An outlook is who asks there. If it is this node, mine is the interface by which it
// does, and controls are addresses of the owner's kernel that it can ask for.
type outlook struct {
	witness  string
	mine     int
	controls map[lb.Family]netip.Addr
}

// owned reports whether the owner that was decided for an address answers for it.
func (s *surveyor) owned(d *announce.Decision) bool {
	switch {
	case d.Owner == s.cfg.Node:
		return s.owns(d.Address)
	case d.Owner == "":
		return false
	default:
		m := s.members[d.Owner]
		return m != nil && !m.Claims[d.Address].None()
	}
}

// outlook says who asks for what an owner answers for on an interface.
func (s *surveyor) outlook(owner string, on *lb.Interface) outlook {
	o, known := s.stands[stand{owner, on}]
	if known {
		return o
	}
	o.witness = proof.Witness(s.Core.members, owner, *on)
	if o.witness == s.cfg.Node {
		o.mine, o.controls = s.control(on)
	}
	s.stands[stand{owner, on}] = o
	return o
}

// control returns this node's interface on the segment of another node's, and which
// addresses the other one has there: one for each family, the same if it has one alone.
func (s *surveyor) control(on *lb.Interface) (mine int, controls map[lb.Family]netip.Addr) {
	controls = map[lb.Family]netip.Addr{}
	for _, i := range s.interfaces {
		if i.Fault() != lb.InterfaceOK || !proof.Share(i, *on) {
			continue
		}
		for _, p := range on.Addresses {
			if a := p.Addr(); !a.IsLinkLocalUnicast() && i.OnLink(a) {
				controls[lb.FamilyOf(a)] = a
			}
		}
		for _, f := range [...]lb.Family{lb.IPv4, lb.IPv6} {
			if !controls[f].IsValid() {
				controls[f] = controls[other[f]]
			}
		}
		return i.Index, controls
	}
	return 0, controls
}

var other = map[lb.Family]lb.Family{lb.IPv4: lb.IPv6, lb.IPv6: lb.IPv4}

// Proved answers a question of Prove: all that was heard, or failed if it could not be
// put.
func (c *Core) Proved(now time.Time, q proof.Question, answers []proof.Answer, failed bool) {
	for _, h := range answers {
		if _, known := c.neighbors.stations[h.MAC]; !known && len(c.conflicts.identifying) < identifyMost {
			c.identify(Station{q.Interface, h.MAC}) // known by the next round
		}
	}
	if q.Requested {
		c.requested(now, q, answers, failed)
		return
	}
	c.proofs.prover.Answer(now, q, answers, failed, c.whose, func(node string) bool {
		i, listed := find(c.members, node)
		return listed && c.members[i].State == election.Alive
	})
}

// whose says whose station it is that answers for an address, and what of the node
// does.
func (c *Core) whose(mac lb.MAC, a netip.Addr) (node string, voice proof.Voice) {
	node, known := c.neighbors.stations[mac]
	switch {
	case !known:
		return "", proof.Stranger
	case !c.reaches(node):
		return node, proof.Silent
	case c.claimed(node, a):
		return node, proof.Speaker
	default:
		return node, proof.Kernel
	}
}

// echoes reports whether what was heard answers a question of this node for an
// address of its own: what it means is for the Prover to say.
func (c *Core) echoes(now time.Time, h layer2.Heard) bool {
	at, asked := c.proofs.asked[h.Address]
	return h.Kind == layer2.HeardReply && asked && now.Sub(at) < echo
}

// overhear takes note of a claim by a node's station that gossip does not explain: the
// node's kernel has the address, or its speaker is not heard. Nothing is yielded to it,
// but it is never passed over: unless gossip explains it within a moment, the segment
// is asked, and it is told.
func (c *Core) overhear(now time.Time, h layer2.Heard, node string) {
	h.At = now
	t, key := &c.conflicts, use{h.Address, h.MAC}
	i, claims := claimAt(c.view.Answers, h.Address)
	if !c.owns(h.Address) || !claims || now.Sub(c.view.Answers[i].Since) < Acquaintance || c.claimed(node, h.Address) {
		return // not ours, or just acquired, or a contest
	}
	s := t.by[key]
	switch {
	case s == nil && !t.remembers(now):
	case s == nil:
		s = &sighting{use: key, last: h, suspected: true, due: now.Add(Acquaintance)}
		s.at = t.order.PushBack(s)
		t.by[key] = s
		t.suspects = append(t.suspects, key)
	default:
		news := !s.suspected && now.Sub(s.last.At) >= ConflictPause
		t.heard(s, h)
		if news {
			c.expose(now, s, node)
		}
	}
}

// owns reports whether this node owns an address and answers for it.
func (c *Core) owns(a netip.Addr) bool {
	d, _ := c.intent.Decision(a)
	_, answers := claimOf(c.claims, a)
	return d.Role == election.Owner && answers
}

func claimAt(answers []Answer, a netip.Addr) (int, bool) {
	return slices.BinarySearchFunc(answers, a, func(is Answer, a netip.Addr) int { return is.Address.Compare(a) })
}

// expose has a node's use of an address told.
func (c *Core) expose(now time.Time, s *sighting, node string) {
	d, _ := c.intent.Decision(s.address)
	if c.proofs.prover != nil {
		c.proofs.prover.Recheck(now, s.address)
	}
	h := s.last
	h.At = now
	c.out.Conflicts = append(c.out.Conflicts, Conflict{Heard: h, Services: d.Services, Node: node})
}

// excuse ends the suspicion of nodes that turn out to claim what they were heard with:
// gossip settles that.
func (c *Core) excuse() {
	t := &c.conflicts
	t.suspects = slices.DeleteFunc(t.suspects, func(key use) bool {
		node, known := c.neighbors.stations[key.mac]
		if !known || !c.claimed(node, key.address) {
			return false
		}
		t.forget(t.by[key])
		return true
	})
}
