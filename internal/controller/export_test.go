package controller

import (
	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/lb"
)

// cursedPlanner panics over Services that carry a label.
type cursedPlanner struct {
	*allocator.Planner
	label string
}

func (p cursedPlanner) Put(s lb.Service) {
	if _, cursed := s.Labels[p.label]; cursed {
		panic("a curse on " + s.Key.Name)
	}
	p.Planner.Put(s)
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
func (c *Controller) Curse(label string) {
	c.newPlanner = func() planner { return cursedPlanner{allocator.New(), label} }
}
