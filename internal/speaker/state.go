package speaker

import (
	"sync/atomic"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/core"
)

// A State is what a Speaker knows and does at one moment. It does not change.
type State struct {
	// View is what layer 2 does.
	core.View
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

// State returns what the Speaker knows and does, nil before it knows anything.
func (s *Speaker) State() *State {
	newest := s.board.state.Load()
	if newest == nil || newest.left {
		return newest
	}
	out := *newest
	out.Routing, out.Sessions = *s.Routing(), s.Sessions()
	return &out
}

// Stated has a value after State has changed, its Sessions left aside. One
// receiver is told.
func (s *Speaker) Stated() <-chan struct{} { return s.board.changed }
