package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/belfrylb/belfry/internal/daemon"
	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/report"
	"github.com/belfrylb/belfry/internal/speaker"
	"github.com/belfrylb/belfry/internal/speakerstatus"
)

// A register is the node's SpeakerStatus as the speaker sees it.
type register struct {
	*kube.SpeakerStatus
	node     string
	settings report.Settings
	cluster  *kube.Cluster
	// keys are those of gossip that are in use.
	keys *atomic.Pointer[gossipkey.Use]
}

// use has the status tell which keys of gossip are in use.
func (r register) use(keys gossipkey.Use) {
	r.keys.Store(&keys)
	r.Touch()
}

// Write makes it say what the speaker knows.
func (r register) Write(ctx context.Context, s *speaker.State) (bool, error) {
	before, known := r.Status()
	if !known {
		return false, nil // the watch will tell
	}
	_, findings := r.cluster.Setting()
	switch outcome, err := r.SpeakerStatus.Write(ctx, speakerstatus.Compose(speakerstatus.Knowledge{
		Node: r.node, Version: daemon.Version(), Now: time.Now(), State: s.Phase(r.node), Settings: r.settings,
		Index: s.Index, Interfaces: s.Interfaces, Members: s.Members, Answers: s.Answers,
		Detection: s.Detection, Unheard: s.Unheard, Blocked: s.Blocked, Keys: *r.keys.Load(), Withheld: s.Withheld, Conflicts: s.Conflicts, Proofs: s.Proofs, Response: s.Response,
		Routing: s.Routing, Sessions: s.Sessions, Aside: s.Aside, Findings: findings,
	}, before)); outcome {
	case kube.Unchanged, kube.Stale:
		return false, err
	default:
		return err == nil, err
	}
}

// idleTimeout bounds how long the start of a speaker waits to say that it uses no key.
const idleTimeout = time.Second

// idle tells that the speaker uses no key of gossip yet. Until then its status is of an
// earlier life, and a change of keys waits for what that did.
func (r register) idle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, idleTimeout)
	defer cancel()
	for {
		if _, known := r.Status(); known {
			_, _ = r.Write(ctx, &speaker.State{})
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-r.Changed():
		}
	}
}
