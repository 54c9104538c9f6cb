package controller

import (
	"time"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/lb"
)

// A Curse is when a planner panics over a Service that carries a label.
type Curse string

// Curses.
const (
	OnSight       Curse = "on sight"
	BesidePools   Curse = "when it is planned for beside pools"
	BesideNodes   Curse = "when it is planned for beside nodes"
	OnceAndNoMore Curse = "once, and not when it is tried again"
)

// cursedPlanner panics over Services that carry a label, and is of no use from
// then on.
type cursedPlanner struct {
	*allocator.Planner
	label, on             string
	curse                 Curse
	pools, nodes, invoked bool
	broken                bool
	lifted                *bool
}

func (p *cursedPlanner) SetPools(pools []lb.Pool) {
	p.pools = len(pools) > 0
	p.Planner.SetPools(pools)
}

func (p *cursedPlanner) SetNodes(nodes []lb.Node) {
	p.nodes = len(nodes) > 0
	p.Planner.SetNodes(nodes)
}

func (p *cursedPlanner) Put(s lb.Service) {
	if _, cursed := s.Labels[p.label]; cursed {
		p.invoked, p.on = true, s.Key.Name
	}
	if p.broken || p.invoked && p.curse == OnSight {
		p.breaks()
	}
	p.Planner.Put(s)
}

func (p *cursedPlanner) Plan(now time.Time) allocator.Result {
	switch {
	case !p.invoked:
	case p.curse == BesidePools && p.pools, p.curse == BesideNodes && p.nodes:
		p.breaks()
	case p.curse == OnceAndNoMore && !*p.lifted:
		*p.lifted = true
		p.breaks()
	}
	return p.Planner.Plan(now)
}

func (p *cursedPlanner) breaks() {
	p.broken = true
	panic("a curse on " + p.on)
}

// stuckPlanner does not return from planning over Services that carry a label
// until released is closed.
type stuckPlanner struct {
	*allocator.Planner
	label    string
	released <-chan struct{}
}

func (p stuckPlanner) Put(s lb.Service) {
	if _, stuck := s.Labels[p.label]; stuck {
		<-p.released
	}
	p.Planner.Put(s)
}

// Stick makes the controller hang over Services that carry a label, until released
// is closed.
func (c *Controller) Stick(label string, released <-chan struct{}) {
	c.newPlanner = func() planner { return stuckPlanner{allocator.New(), label, released} }
}

// Curse makes the controller panic over Services that carry a label.
func (c *Controller) Curse(label string, on Curse) {
	lifted := new(bool)
	c.newPlanner = func() planner {
		return &cursedPlanner{Planner: allocator.New(), label: label, curse: on, lifted: lifted}
	}
}
