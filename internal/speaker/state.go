package speaker

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/report"
)

// A State is what a Speaker knows and does at one moment. It does not change.
type State struct {
	// View is what layer 2 does.
	core.View
	// Unheard are the nodes whose speakers are not heard, those that were heard
	// before first; Conflicts are foreign stations that use what is announced all the
	// same.
	Unheard   []string
	Conflicts []report.Conflict
	// Blocked are the nodes to which gossip is blocked though their speakers are there.
	Blocked []election.Blocked
	// Aside are the Services that are left as they were, because a decision panics over
	// what they are.
	Aside []lb.ServiceKey
	// Routing is what BGP is to do on the node, Sessions what became of it; both
	// nothing once the Speaker has left.
	Routing  bgp.Intent
	Sessions []bgp.SessionView
	left     bool
}

// A board shows the newest State to whoever looks.
type board struct {
	state   atomic.Pointer[State]
	changed chan struct{}
}

func newBoard() *board { return &board{changed: make(chan struct{}, 1)} }

func (b *board) show(s State) {
	b.state.Store(&s)
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// retire shows that the Speaker does nothing any more.
func (s *Speaker) retire() {
	last := core.View{Interfaces: s.link.Interfaces()}
	if shown := s.board.state.Load(); shown != nil {
		last.Index, last.Members = shown.Index, shown.Members
	}
	s.board.show(State{View: last, left: true})
}

// Phase is how far the Speaker of a node is in its life.
func (s *State) Phase(node string) election.State {
	if s.left {
		return election.Gone
	}
	for _, m := range s.Members {
		if m.Node == node {
			return m.State
		}
	}
	return election.Joining
}

// unheard returns the nodes whose speakers are not heard, those that were heard
// before first. A speaker that is joining has no opinion.
func (s *Speaker) unheard(v *core.View) []string {
	heard := make(map[string]bool, len(v.Members))
	for _, m := range v.Members {
		if m.Node == s.cfg.Node && m.State == election.Joining {
			return nil
		}
		heard[m.Node] = true
		s.met[m.Node] = true
	}
	nodes := v.Index.Nodes()
	maps.DeleteFunc(s.met, func(n string, _ bool) bool { _, is := slices.BinarySearch(nodes, n); return !is })
	var lost, never []string
	for _, n := range nodes {
		switch {
		case n == s.cfg.Node || heard[n]:
		case s.met[n]:
			lost = append(lost, n)
		default:
			never = append(never, n)
		}
	}
	return append(lost, never...)
}

// State returns what the Speaker knows and does, nil before it knows anything.
func (s *Speaker) State() *State {
	newest := s.board.state.Load()
	if newest == nil || newest.left {
		return newest
	}
	out := *newest
	out.Routing, out.Sessions = *s.Routing(), s.Sessions()
	if also := *s.advertiser.aside.Load(); len(also) > 0 {
		out.Aside = slices.Concat(out.Aside, also)
		slices.SortFunc(out.Aside, lb.ServiceKey.Compare)
		out.Aside = slices.Compact(out.Aside)
	}
	return &out
}

// Stated has a value after State has changed, its Sessions left aside. One
// receiver is told.
func (s *Speaker) Stated() <-chan struct{} { return s.board.changed }
