package kube

import (
	"reflect"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Reader reads a Cluster for somebody who decides on the whole anew, and need
// not when nothing has changed that a decision depends on: most of what happens
// to a Service is that somebody writes a condition. It is the only reader of its
// Cluster.
type Reader struct {
	cluster *Cluster
	last    lb.Snapshot
	begun   bool
}

// NewReader returns a Reader.
func NewReader(c *Cluster) *Reader { return &Reader{cluster: c} }

// Snapshot returns the whole, and whether anything in it differs from what was
// returned last.
func (r *Reader) Snapshot() (s lb.Snapshot, changed bool) {
	c := r.cluster
	c.mu.Lock()
	changes := c.changes
	c.changes.reset()
	s = c.whole()
	c.mu.Unlock()
	changed = !r.begun || changes.config || changes.nodes || len(changes.endpoints) > 0
	for key := range changes.services {
		if changed {
			break
		}
		changed = !reflect.DeepEqual(find(r.last.Services, key), find(s.Services, key))
	}
	r.last, r.begun = s, true
	return s, changed
}

// find returns a Service from a sorted list, or nil.
func find(services []lb.Service, key lb.ServiceKey) *lb.Service {
	i, ok := slices.BinarySearchFunc(services, key, func(s lb.Service, key lb.ServiceKey) int { return s.Key.Compare(key) })
	if !ok {
		return nil
	}
	return &services[i]
}
