package controller

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/report"
)

// want is what a Service should carry by what has been decided about it.
func (s *service) want() objects.ServiceWrite {
	d := s.decision
	if d.Reason == allocator.NotOurs {
		return objects.ServiceWrite{Left: d.Left, Announced: &objects.Condition{}}
	}
	w := objects.ServiceWrite{
		Left:        d.Left,
		Reallocated: d.Reallocated, Terms: d.Terms, Moved: s.moved,
		Allocated: objects.Condition{Status: metav1.ConditionFalse, Reason: d.Reason.String(), Message: d.Sentence()},
	}
	if d.Allocated() {
		w.Allocated.Status = metav1.ConditionTrue
	}
	for _, a := range d.Assignments {
		w.Addresses = append(w.Addresses, a.Address)
		w.Pools = append(w.Pools, a.Pool)
	}
	w.Placed = s.placed
	w.Announced = s.announced
	if len(d.Assignments) == 0 {
		w.Announced = &objects.Condition{}
	}
	return w
}

// judge finds out for some Services, as they will be once their decisions are
// carried out, what they are told of their announcing, and where their addresses
// are to be placed. The Services that share an address with them must be among them.
func (l *loop) judge(keys []lb.ServiceKey) {
	defer func() {
		for _, key := range keys {
			if s := l.services[key]; s != nil {
				l.counts(key, s)
			}
		}
	}()
	for _, key := range keys {
		if s := l.services[key]; s != nil {
			s.announced, s.placed = nil, nil
			if len(s.decision.Assignments) == 0 {
				s.event = report.Event{}
			}
		}
	}
	world, served := l.world(keys)
	if len(world.Services) == 0 {
		return
	}
	index := announce.NewIndex(world, l.Announce)
	l.honorMoves(index, world.Services)
	l.place(index, served)
	l.inform(index, world.Services, time.Now())
	for i := range world.Services {
		s := l.services[world.Services[i].Key]
		s.placed = l.placesOf(s.decision)
	}
}

// world is the cluster with some of the Services, those that hold addresses, as
// they will be once their decisions are carried out. Served are the addresses
// that a node may be answering for.
func (l *loop) world(keys []lb.ServiceKey) (world lb.Snapshot, served map[netip.Addr]bool) {
	world, served = l.setting, map[netip.Addr]bool{}
	world.Services = nil
	for _, key := range keys {
		s := l.services[key]
		if s == nil || len(s.decision.Assignments) == 0 {
			continue
		}
		is, ok := l.Cluster.Service(key)
		if !ok {
			continue
		}
		world.Services = append(world.Services, s.decision.Apply(is.Service))
		if is.InService() {
			for _, a := range is.Assigned {
				served[a] = true
			}
		}
	}
	return world, served
}

// Reasons of Events about Services.
const (
	eventAllocated = "IPAllocated"
	eventFailed    = "AllocationFailed"
	eventReleased  = "IPReleased"
	eventOrphaned  = "IPOrphaned"
	eventNotMoved  = "MoveRefused"
)

// tell reports the transitions that a write has made: from what the Service was
// to what it carries now.
func (l *loop) tell(was objects.Service, d allocator.Decision, is objects.ServiceWrite) {
	about := was.Reference()
	event := func(warning bool, reason, action, format string, args ...any) {
		l.Events.Record(kube.Event{About: about, Warning: warning, Reason: reason, Action: action, Note: fmt.Sprintf(format, args...)})
	}
	var gained []string
	for i, a := range is.Addresses {
		if !slices.Contains(was.Assigned, a) {
			gained = append(gained, fmt.Sprintf("%v from pool %s", a, is.Pools[i]))
		}
	}
	if len(gained) > 0 {
		event(false, eventAllocated, "Allocate", "assigned %s", strings.Join(gained, " and "))
	}
	for _, r := range d.Released {
		// What another writer puts in the place of ours was never given.
		given := was.RecordOf(r.Address) != "" || len(was.Withdrawn) == 0
		if given && slices.Contains(was.Assigned, r.Address) {
			event(r.Cause == allocator.LostToOlder || r.Cause == allocator.SharingEnded, eventReleased, "Release", "%s", r.Sentence())
		}
	}
	if is.Allocated.Reason != was.Allocated.Reason {
		switch {
		case is.Allocated.Reason == Contested: // told when it began
		case d.Reason == allocator.Orphaned || d.Reason == allocator.Kept:
			event(true, eventOrphaned, "Allocate", "%s", is.Allocated.Message)
		case !d.Reason.Satisfied() && d.Reason != allocator.NotOurs:
			event(true, eventFailed, "Allocate", "%s", is.Allocated.Message)
		}
	}
}
