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

// Curse makes the controller panic over Services that carry a label.
func (c *Controller) Curse(label string) {
	c.newPlanner = func() planner { return cursedPlanner{allocator.New(), label} }
}
