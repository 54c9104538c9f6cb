package speaker

import (
	"sync/atomic"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// A State is what a Speaker knows and does at one moment. It does not change.
type State struct {
	Index      *announce.Index
	Interfaces []lb.Interface
	Members    []election.Member
	// Claims are the addresses that the node answers for, ascending.
	Claims []layer2.Claim
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

// State returns what the Speaker knows and does, nil before it knows anything.
func (s *Speaker) State() *State { return s.board.state.Load() }

// Stated has a value after State has changed. One reader is told.
func (s *Speaker) Stated() <-chan struct{} { return s.board.changed }
