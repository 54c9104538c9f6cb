package controller

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/kube"
)

// disputePause is the least time between two searches for advertisements that
// contradict each other because Services have changed (docs/design/pacing.md).
const disputePause = time.Second

// dispute finds out which advertisements and peers of BGP contradict older ones:
// that depends on which addresses and nodes they meet on, and so is not to be
// seen from the objects alone.
func (l *loop) dispute() {
	l.disputedAt, l.disputing = time.Now(), time.Time{}
	l.disputes = nil
	contestable := bgp.Contestable(l.setting.BGPAdvertisements)
	if !contestable && len(l.setting.BGPPeers) < 2 {
		return
	}
	world := l.setting
	if contestable {
		world, _ = l.world(slices.Collect(maps.Keys(l.services)))
	}
	conflicts, rivals := bgp.NewSurvey(world, eligibility.Addresses(world), bgp.Options{Options: l.Announce}).Contradictions()
	l.disputes = map[objectKey][]config.Problem{}
	object := func(kind, name, field, why string) {
		key := objectKey{kind, name}
		l.disputes[key] = append(l.disputes[key], config.Problem{Field: field, Reason: v1beta1.ReasonConflict, Why: why})
	}
	for _, c := range conflicts {
		object(kube.KindBGPAdvertisement, c.Advertisement, "spec."+c.Attribute, c.String()+"; this one does not apply there")
	}
	for _, r := range rivals {
		object(kube.KindBGPPeer, r.Peer, "spec.peerAddress",
			fmt.Sprintf("the older BGPPeer %s is for the same router on some nodes; there this one holds no session", r.Older))
	}
}
