package controller

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/placement"
)

// places are where layer 2 prefers to have each address in use, and how many
// addresses that makes for each node. They are what the Services say, with what
// was decided and is not written yet on top.
type places struct {
	of   map[netip.Addr]string
	load map[string]int
}

func newPlaces() places { return places{map[netip.Addr]string{}, map[string]int{}} }

// set enters the place of an address; empty for none.
func (p *places) set(a netip.Addr, node string) {
	if was := p.of[a]; was != "" {
		if p.load[was]--; p.load[was] == 0 {
			delete(p.load, was)
		}
	}
	if node == "" {
		delete(p.of, a)
		return
	}
	p.of[a] = node
	p.load[node]++
}

// replaced takes note of the places that another writer has recorded in a Service's
// status: the controller that led before, or an operator with that right.
// It reports whether the Service has to be looked at for that. What we wrote
// ourselves is no news: by the time it is seen, it may be outdated.
func (l *loop) replaced(s *service, is lb.Service) bool {
	differs := false
	for _, a := range is.Assigned {
		node := is.PlaceOf(a)
		if node == l.places.of[a] {
			continue
		}
		differs = true
		if node != "" && len(l.holders[a]) > 0 && node != s.seen.placeOf(a) && node != s.wrote.placeOf(a) {
			l.places.set(a, node)
		}
	}
	s.seen = records{is.Assigned, is.Placed, is.Reallocated, is.Terms, is.Moved}
	return differs
}

// asksToMove reports whether a Service has a request to move that is not answered.
func (s *service) asksToMove(is lb.Service) bool {
	return is.Request.Move != "" && is.Request.Move != s.moved.Token
}

// honorMoves places the Services of an index where they ask to be, once for each
// request. A request that cannot be met whole moves nothing.
func (l *loop) honorMoves(index *announce.Index, services []lb.Service) {
	var sites []placement.Address
	for _, is := range services {
		s := l.services[is.Key]
		if !s.asksToMove(is) {
			continue
		}
		if sites == nil {
			sites = index.Sites()
		}
		node := is.Request.MoveTo
		s.refusal = ""
		if why := placement.Refuses(sites, is.Assigned, node); why != "" {
			s.refusal = fmt.Sprintf("%s: %s; nothing is moved", objects.AnnotationMove, why)
		}
		s.moved = lb.Move{Token: is.Request.Move, Refused: s.refusal != ""}
		if s.moved.Refused {
			continue
		}
		for _, d := range s.decision.Assignments {
			l.places.set(d.Address, node)
		}
	}
}

// tellMove tells of a request to move that a write has recorded as refused.
func (l *loop) tellMove(was objects.Service, is objects.ServiceWrite, why string) {
	if is.Moved.Refused && is.Moved != was.Moved && why != "" {
		l.Events.Record(kube.Event{About: was.Reference(), Warning: true, Reason: eventNotMoved, Action: "Place", Note: why})
	}
}

// believe puts addresses where they are, written already or not, and returns how
// many each node has besides them.
func (l *loop) believe(sites []placement.Address) map[string]int {
	load := maps.Clone(l.places.load)
	for i := range sites {
		if node, known := l.places.of[sites[i].Address]; known {
			sites[i].Placed = node
			load[node]--
		}
	}
	return load
}

// place chooses nodes for the addresses of an index, given those that are in
// service.
func (l *loop) place(index *announce.Index, inService map[netip.Addr]bool) {
	sites := index.Sites()
	load := l.believe(sites)
	for i := range sites {
		sites[i].InService = inService[sites[i].Address]
	}
	for _, d := range placement.Plan(load, sites) {
		l.places.set(d.Address, d.Node)
	}
}

// placesOf returns where the addresses of a decision are to be, in their order.
func (l *loop) placesOf(d allocator.Decision) []string {
	out := make([]string, len(d.Assignments))
	for i, a := range d.Assignments {
		out[i] = l.places.of[a.Address]
	}
	if !slices.ContainsFunc(out, func(node string) bool { return node != "" }) {
		return nil
	}
	return out
}
