package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/placement"
	"github.com/belfrylb/belfry/internal/report"
)

// An ObjectStatus is what the status of an object that configures us should say, pools
// left aside, which have more to say. That of a BGPPeer says besides how many of
// its sessions are established, by [Cluster.SessionCount].
type ObjectStatus struct {
	config.Finding
	// Progress is that of an L2Advertisement's rebalancing.
	Progress placement.Progress
	// Sessions are those of a BGPPeer.
	Sessions report.SessionCount
}

// Kinds of objects that an ObjectStatus is about.
const (
	KindL2Advertisement  = "L2Advertisement"
	KindBGPPeer          = "BGPPeer"
	KindBGPAdvertisement = "BGPAdvertisement"
	KindBFDProfile       = "BFDProfile"
	KindCommunity        = "Community"
)

// StatusKinds are the kinds of objects that an ObjectStatus is about.
var StatusKinds = []string{KindL2Advertisement, KindBGPPeer, KindBGPAdvertisement, KindBFDProfile, KindCommunity}

// A judged kind is one of StatusKinds: where its objects are, and how their
// status is written.
type judged struct {
	find  func(name string) (o metav1.Object, conditions []metav1.Condition, ok bool)
	patch func(ctx context.Context, name string, body []byte) error
}

// A patcher is the part of a typed client that writes.
type patcher[T any] interface {
	Patch(ctx context.Context, name string, pt types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string) (T, error)
}

func judgedKind[T metav1.Object](t *table[T], conditions func(T) []metav1.Condition, client func() patcher[T]) judged {
	return judged{
		find: func(n string) (metav1.Object, []metav1.Condition, bool) {
			r := t.rows[name{Name: n}]
			if r == nil {
				return nil, nil, false
			}
			return r.value, conditions(r.value), true
		},
		patch: func(ctx context.Context, name string, body []byte) error {
			answer, err := client().Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{}, "status")
			if err != nil {
				return err
			}
			return t.Answer(answer)
		},
	}
}

func (c *Cluster) judgedKinds() map[string]judged {
	return map[string]judged{
		KindL2Advertisement: judgedKind(c.l2ads,
			func(o *v1beta1.L2Advertisement) []metav1.Condition { return o.Status.Conditions },
			func() patcher[*v1beta1.L2Advertisement] { return c.own.L2Advertisements() }),
		KindBGPPeer: judgedKind(c.peers,
			func(o *v1beta1.BGPPeer) []metav1.Condition { return o.Status.Conditions },
			func() patcher[*v1beta1.BGPPeer] { return c.own.BGPPeers() }),
		KindBGPAdvertisement: judgedKind(c.bgpads,
			func(o *v1beta1.BGPAdvertisement) []metav1.Condition { return o.Status.Conditions },
			func() patcher[*v1beta1.BGPAdvertisement] { return c.own.BGPAdvertisements() }),
		KindBFDProfile: judgedKind(c.profiles,
			func(o *v1beta1.BFDProfile) []metav1.Condition { return o.Status.Conditions },
			func() patcher[*v1beta1.BFDProfile] { return c.own.BFDProfiles() }),
		KindCommunity: judgedKind(c.communities,
			func(o *v1beta1.Community) []metav1.Condition { return o.Status.Conditions },
			func() patcher[*v1beta1.Community] { return c.own.Communities() }),
	}
}

// Judged returns an object that an ObjectStatus is about, and the conditions it shows.
func (c *Cluster) Judged(kind, name string) (o metav1.Object, conditions []metav1.Condition, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.judged[kind].find(name)
}

// Shows reports whether an object's status says what has been found, or there is
// no such object.
func (c *Cluster) Shows(f ObjectStatus) bool { return c.objectStatusPatch(f) == nil }

// WriteObjectStatus makes an object's status say what has been found. What else is in
// it stays.
func (c *Cluster) WriteObjectStatus(ctx context.Context, f ObjectStatus) (Outcome, error) {
	patch := c.objectStatusPatch(f)
	if patch == nil {
		return Unchanged, nil
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return Refused, fmt.Errorf("patch of %s %s: %w", f.Kind, f.Name, err)
	}
	if err := c.judged[f.Kind].patch(ctx, f.Name, body); err != nil {
		return classify(err), fmt.Errorf("write %s %s: %w", f.Kind, f.Name, err)
	}
	return Done, nil
}

// objectStatusPatch returns what is missing in an object's status, or nil.
func (c *Cluster) objectStatusPatch(f ObjectStatus) object {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, have, ok := c.judged[f.Kind].find(f.Name)
	if !ok {
		return nil
	}
	status := object{}
	want := SetCondition(have, f.Condition())
	if f.Kind == KindBGPPeer {
		want = setRoutesSent(want, f)
	}
	if !equality.Semantic.DeepEqual(want, have) {
		status["conditions"] = want
	}
	if ad, is := o.(*v1beta1.L2Advertisement); is && f.Progress != (placement.Progress{}) {
		want := &v1beta1.RebalanceStatus{Token: f.Progress.Token, Remaining: int32(min(f.Progress.Left, math.MaxInt32))}
		if !equality.Semantic.DeepEqual(want, ad.Status.Rebalance) {
			status["rebalance"] = want
		}
	}
	if peer, is := o.(*v1beta1.BGPPeer); is {
		up, total := int32(min(f.Sessions.Up, math.MaxInt32)), int32(min(f.Sessions.Total, math.MaxInt32))
		if up != peer.Status.SessionsUp || total != peer.Status.SessionsTotal {
			status["sessionsUp"], status["sessionsTotal"] = up, total
		}
	}
	if len(status) == 0 {
		return nil
	}
	return object{"metadata": object{"uid": o.GetUID()}, "status": status}
}

// setRoutesSent sets a BGPPeer's condition RoutesSent, once it has something to say.
func setRoutesSent(conditions []metav1.Condition, f ObjectStatus) []metav1.Condition {
	c := metav1.Condition{
		Type: v1beta1.ConditionRoutesSent, Status: metav1.ConditionTrue, Reason: v1beta1.ReasonSent, ObservedGeneration: f.Generation,
	}
	known := slices.ContainsFunc(conditions, func(have metav1.Condition) bool { return have.Type == c.Type })
	switch {
	case f.Sessions.Waits != "":
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, v1beta1.ReasonWaiting, f.Sessions.Waits
	case !known:
		return conditions
	}
	return SetCondition(conditions, c)
}
