package allocator

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
)

// A service is what the planner knows of one Service.
type service struct {
	lb.Service
	claims   []*claim
	foreign  []netip.Addr // those in its status that are not ours
	decision Decision
	// scope is that of the pools of a generation.
	scope      *scope
	generation int
	known      bool // decision is set
	touched    bool // put since the last planning
	dirty      bool // to be looked at again
	waiting    bool
	deleted    bool
	// honored is the reallocate token that goes with what was promised, and agreed
	// are its terms.
	honored, agreed string
	// terms are those of the Service as it is.
	terms string
}

// A tenure is a claim to be made.
type tenure struct {
	addr
	from                                    string
	promised, withdrawn, leaving, revocable bool
	// unrecorded is set when only the status says so.
	unrecorded bool
}

// tenures returns the claims of a Service: those that its status makes, and those it
// was promised. Foreign are the addresses in its status that are not ours.
func (p *Planner) tenures(s *lb.Service, promised []tenure) (all []tenure, foreign []netip.Addr) {
	isPromised := func(a addr) bool {
		return slices.ContainsFunc(promised, func(t tenure) bool { return t.addr == a })
	}
	ours := func(a netip.Addr) bool { return p.origins.Of(s, a).Standing != origin.Foreign }
	var seen [2]bool
	for i, a := range s.Assigned {
		t := tenure{addr: number(a), revocable: true, withdrawn: slices.Contains(s.Withdrawn, a)}
		if i < len(s.AssignedPools) {
			t.from = s.AssignedPools[i]
		}
		t.unrecorded = t.from == ""
		switch {
		case isPromised(t.addr):
			continue
		case !ours(a):
			foreign = append(foreign, a)
			continue
		case t.from == "" && p.origins.Covers(s.Request.Pool, a):
			t.from = s.Request.Pool // of several that cover it, the one that keeps it in place
		}
		// Of two of one family it keeps the one it asks for, else the first.
		f := t.family()
		better := slices.ContainsFunc(s.Request.Addresses, func(r netip.Addr) bool {
			return r != a && index(lb.FamilyOf(r)) == f && slices.Contains(s.Assigned, r) && ours(r)
		})
		t.leaving = seen[f] || better || !wantsFamily(s, f)
		seen[f] = seen[f] || !t.leaving
		if !slices.ContainsFunc(all, func(o tenure) bool { return o.addr == t.addr }) {
			all = append(all, t)
		}
	}
	return append(all, promised...), foreign
}

// adopt makes the claims of a Service those that its status shows and, until
// that status changes, those that it was promised.
func (p *Planner) adopt(s *service, next lb.Service) {
	last := s.Service
	p.unwait(s)
	s.scope = nil

	var promised []tenure
	if slices.Equal(last.Assigned, next.Assigned) {
		for _, c := range s.claims {
			if c.promised && !c.leaving && wantsFamily(&next, c.use.family()) {
				promised = append(promised, tenure{addr: c.use.addr, from: c.from, promised: true, revocable: true})
			}
		}
	}
	wants, foreign := p.tenures(&next, promised)
	s.foreign = foreign

	regroup := !sharesAlike(&last, &next)
	for i := len(s.claims) - 1; i >= 0; i-- {
		c := s.claims[i]
		j := slices.IndexFunc(wants, func(w tenure) bool { return w.addr == c.use.addr })
		if j < 0 || regroup {
			p.unclaim(c, !served(&next))
			continue
		}
		if w := wants[j]; c.from != w.from || c.leaving != w.leaving || c.withdrawn != w.withdrawn || c.unrecorded != w.unrecorded || c.lost {
			p.alter(c, w)
		}
		c.promised, c.revocable = wants[j].promised, true
		wants = slices.Delete(wants, j, j+1)
	}
	s.Service, s.terms = next, terms(&next)
	for _, c := range s.claims {
		p.reconsider(c.use) // on which terms it came to hold it may have changed
	}
	for _, w := range wants {
		p.claim(s, w)
	}
}

// shows reports whether the Service's status shows what is not ours.
func (s *service) shows() bool { return len(s.foreign)+len(s.Others) > 0 }

// recorded returns the last reallocate token that was honored.
func (s *service) recorded() string {
	if slices.ContainsFunc(s.claims, func(c *claim) bool { return c.promised }) {
		return s.honored
	}
	return s.Reallocated
}

// terms returns the fingerprint of what decides whom a Service can share with;
// empty without a key, as it then shares with none. A tenant that could make up two
// sets of terms with one fingerprint could take an address from others, so it is
// a cryptographic one.
func terms(s *lb.Service) string {
	if s.Request.SharingKey == "" {
		return ""
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %v", s.Request.SharingKey, s.TrafficPolicy)
	if s.TrafficPolicy == lb.TrafficLocal {
		fmt.Fprintf(h, " %q", s.PodSelector)
	}
	for _, p := range slices.SortedFunc(slices.Values(s.Ports), lb.Port.Compare) {
		fmt.Fprintf(h, " %s/%d", p.Protocol, p.Number)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// edited reports whether the Service shares on other terms than those on which it
// came to hold the address. Nobody can tell where nothing is recorded.
func (c *claim) edited() bool {
	agreed := c.Service.Terms
	if c.promised {
		agreed = c.agreed
	}
	return agreed != "" && agreed != c.terms && !c.Foreign
}

// sharesAlike reports whether two states of a Service share with the same
// others.
func sharesAlike(a, b *lb.Service) bool {
	return a.Request.SharingKey == b.Request.SharingKey && a.TrafficPolicy == b.TrafficPolicy &&
		a.PodSelector == b.PodSelector && slices.Equal(a.Ports, b.Ports)
}

// served reports whether the Service is to have addresses at all.
func served(s *lb.Service) bool { return !s.Released && !s.Headless }

// wanted returns the families that the Service wants, primary first; none while
// they are not known.
func wanted(s *lb.Service) []lb.Family {
	switch {
	case len(s.Families) == 0, s.FamilyPolicy == lb.RequireDualStack && len(s.Families) < 2:
		return nil
	case s.FamilyPolicy == lb.SingleStack:
		return s.Families[:1]
	default:
		return s.Families[:min(len(s.Families), 2)]
	}
}

func wantsFamily(s *lb.Service, f family) bool {
	families := wanted(s)
	return served(s) && (families == nil || slices.ContainsFunc(families, func(w lb.Family) bool { return index(w) == f }))
}

// older orders Services by age.
func (s *service) older(o *service) int {
	return cmp.Or(s.Created.Compare(o.Created), s.Key.Compare(o.Key))
}
