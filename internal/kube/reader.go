package kube

import (
	"reflect"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Reader reads a Cluster for a loop that decides on the whole anew, and need
// not when nothing has changed that a decision depends on: most of what happens
// to a Service is that a condition is written. It is the only reader of its
// Cluster.
type Reader struct {
	cluster *Cluster
	last    lb.Snapshot
	begun   bool
}

// NewReader returns a Reader.
func NewReader(c *Cluster) *Reader { return &Reader{cluster: c} }

// Snapshot returns the whole, and whether anything in it differs from what was
// returned last that matters to who announces: a Service without addresses does
// not. As long as nothing does, it is the same Snapshot.
func (r *Reader) Snapshot() (s lb.Snapshot, changed bool) {
	c := r.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	changes := c.changes
	c.changes.reset()
	changed = !r.begun || changes.config || changes.nodes
	for _, keys := range []map[lb.ServiceKey]struct{}{changes.services, changes.endpoints} {
		for key := range keys {
			changed = changed || r.differs(key)
		}
	}
	if changed {
		r.last, r.begun = c.whole(), true
	}
	return r.last, changed
}

// differs reports whether a Service that has addresses, or had, is another than
// in the last Snapshot.
func (r *Reader) differs(key lb.ServiceKey) bool {
	was := find(r.last.Services, key)
	is, exists := r.cluster.service(key)
	switch {
	case !exists || len(is.Assigned) == 0:
		return was != nil && len(was.Assigned) > 0
	case was == nil:
		return true
	default:
		now := is.Service
		now.Announced = was.Announced // which matters at the start only
		return !reflect.DeepEqual(*was, now)
	}
}

// find returns a Service from a sorted list, or nil.
func find(services []lb.Service, key lb.ServiceKey) *lb.Service {
	i, ok := slices.BinarySearchFunc(services, key, func(s lb.Service, key lb.ServiceKey) int { return s.Key.Compare(key) })
	if !ok {
		return nil
	}
	return &services[i]
}
