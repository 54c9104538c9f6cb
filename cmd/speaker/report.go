package main

import (
	"context"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/speaker"
)

// A reporter is the cluster as the speaker sees it.
type reporter struct {
	*kube.Cluster
	*kube.Reader
	events *kube.Recorder
}

// Snapshot returns the whole, and whether it has changed.
func (r reporter) Snapshot() (lb.Snapshot, bool) { return r.Reader.Snapshot() }

// writeTimeout bounds one write of a condition.
const writeTimeout = 10 * time.Second

// Announced returns what a Service says.
func (r reporter) Announced(key lb.ServiceKey) (speaker.Report, bool) {
	s, ok := r.Service(key)
	c := s.Announced
	out := speaker.Report{
		Condition: speaker.Condition{Announced: c.Status == metav1.ConditionTrue, Reason: c.Reason, Message: c.Message},
		Places:    make(map[netip.Addr]string, len(s.Assigned)),
	}
	for _, a := range s.Assigned {
		out.Places[a] = s.PlaceOf(a)
	}
	return out, ok
}

// SetAnnounced writes it.
func (r reporter) SetAnnounced(ctx context.Context, key lb.ServiceKey, c speaker.Report) (bool, error) {
	s, ok := r.Service(key)
	if !ok {
		return false, nil
	}
	want := kube.Condition{Status: metav1.ConditionFalse, Reason: c.Reason, Message: c.Message}
	if c.Announced {
		want.Status = metav1.ConditionTrue
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	switch outcome, err := r.WriteAnnounced(ctx, s, want, c.Places); outcome {
	case kube.Unchanged, kube.Stale, kube.Gone: // the watch brings what it is now
		return false, nil
	case kube.Done:
		return true, nil
	default:
		return false, err
	}
}

// PeerEvent records an event about a BGPPeer.
func (r reporter) PeerEvent(peer string, e speaker.Event) {
	if o, _, ok := r.Judged(kube.KindBGPPeer, peer); ok {
		r.events.Record(kube.Event{About: kube.Reference(kube.KindBGPPeer, o), Warning: e.Kind.Warns(), Reason: string(e.Kind), Action: "Peer", Note: e.Message})
	}
}

// Event records an event.
func (r reporter) Event(key lb.ServiceKey, e speaker.Event) {
	if s, ok := r.Service(key); ok {
		r.events.Record(kube.Event{About: s.Reference(), Warning: e.Kind.Warns(), Reason: string(e.Kind), Action: "Announce", Note: e.Message})
	}
}
