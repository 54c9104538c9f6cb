package controller

import (
	"time"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/lb"
)

// A Fault is when a planner panics over a Service that carries a label.
type Fault string

// Faults.
const (
	OnSight       Fault = "on sight"
	BesidePools   Fault = "when it is planned for beside pools"
	BesideNodes   Fault = "when it is planned for beside nodes"
	OnceAndNoMore Fault = "once, and not when it is tried again"
)

// faultyPlanner panics over Services that carry a label, and is of no use from
// then on.
type faultyPlanner struct {
	*allocator.Planner
	label, on             string
	fault                 Fault
	pools, nodes, invoked bool
	broken                bool
	lifted                *bool
}

func (p *faultyPlanner) SetPools(pools []lb.Pool) {
	p.pools = len(pools) > 0
	p.Planner.SetPools(pools)
}

func (p *faultyPlanner) SetNodes(nodes []lb.Node) {
	p.nodes = len(nodes) > 0
	p.Planner.SetNodes(nodes)
}

func (p *faultyPlanner) Put(s lb.Service) {
	if _, faulty := s.Labels.Get(p.label); faulty {
		p.invoked, p.on = true, s.Key.Name
	}
	if p.broken || p.invoked && p.fault == OnSight {
		p.breaks()
	}
	p.Planner.Put(s)
}

func (p *faultyPlanner) Plan(now time.Time) allocator.Result {
	switch {
	case !p.invoked:
	case p.fault == BesidePools && p.pools, p.fault == BesideNodes && p.nodes:
		p.breaks()
	case p.fault == OnceAndNoMore && !*p.lifted:
		*p.lifted = true
		p.breaks()
	}
	return p.Planner.Plan(now)
}

func (p *faultyPlanner) breaks() {
	p.broken = true
	panic("a fault over " + p.on)
}

// stuckPlanner does not return from planning over Services that carry a label
// until released is closed.
type stuckPlanner struct {
	*allocator.Planner
	label    string
	released <-chan struct{}
}

func (p stuckPlanner) Put(s lb.Service) {
	if _, stuck := s.Labels.Get(p.label); stuck {
		<-p.released
	}
	p.Planner.Put(s)
}

// Stick makes the controller hang over Services that carry a label, until released
// is closed.
func (c *Controller) Stick(label string, released <-chan struct{}) {
	c.newPlanner = func() planner { return stuckPlanner{allocator.New(), label, released} }
}

// Fault makes the controller panic over Services that carry a label.
func (c *Controller) Fault(label string, on Fault) {
	lifted := new(bool)
	c.newPlanner = func() planner {
		return &faultyPlanner{Planner: allocator.New(), label: label, fault: on, lifted: lifted}
	}
}
