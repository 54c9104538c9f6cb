package controller

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
)

// A pool is what the loop knows of one IPAddressPool.
type pool struct {
	attempt
	decision allocator.PoolDecision
	clashes  []config.Problem
	// reason is by what it is counted.
	reason v1beta1.Reason
	// written is when its status was last written.
	written time.Time
}

// A configObject is what the loop knows of an object that configures us, pools left
// aside.
type configObject struct {
	attempt
	kube.ObjectStatus
	// reason is by what it is counted.
	reason v1beta1.Reason
	// written is when its status was last written.
	written time.Time
}

// An objectKey names an object that configures us.
type objectKey struct{ kind, name string }

// kindOfPools is the kind that has more to say than the others.
const kindOfPools = "IPAddressPool"

// takeSetting takes note of the cluster besides its Services.
func (l *loop) takeSetting() {
	var findings []config.Finding
	l.setting, findings = l.Cluster.Setting()
	clear(l.findings)
	for _, v := range findings {
		l.findings[objectKey{v.Kind, v.Name}] = v
	}
}

// settleObjects writes to the objects that configure us what has been found
// about them.
func (l *loop) settleObjects() {
	for key, f := range l.configObjects {
		if _, exists := l.findings[key]; !exists {
			l.Metrics.object(key.kind, f.reason, "")
			delete(l.delayed, &f.attempt)
			delete(l.configObjects, key)
		}
	}
	for key, v := range l.findings {
		if key.kind == kindOfPools {
			continue // settlePools says more about them
		}
		f := l.configObjects[key]
		if f == nil {
			f = &configObject{}
			if key.kind == kube.KindL2Advertisement {
				_, f.Progress = l.Cluster.Rebalancing(key.name)
			}
			f.settle = func() { l.settleObject(key, f) }
			l.configObjects[key] = f
		}
		v.Problems = slices.Concat(v.Problems, l.disputes[key])
		if f.Generation != v.Generation || !slices.Equal(f.Problems, v.Problems) {
			l.forgive(&f.attempt)
		}
		f.Finding = v
		l.Metrics.object(key.kind, f.reason, v.Reason())
		f.reason = v.Reason()
		l.look(&f.attempt)
	}
}

// settleSessions writes to the BGP peers how many of their sessions are
// established.
func (l *loop) settleSessions() {
	for key, f := range l.configObjects {
		if key.kind == kube.KindBGPPeer {
			l.look(&f.attempt)
		}
	}
}

func (l *loop) settleObject(key objectKey, f *configObject) {
	found := f.ObjectStatus
	if key.kind == kube.KindBGPPeer {
		found.Sessions = l.view.Sessions(key.name)
	}
	if l.configObjects[key] != f || l.Cluster.Shows(found) {
		return
	}
	is, conditions, ok := l.Cluster.Judged(key.kind, key.name)
	if !ok {
		return
	}
	if wait := time.Until(f.written.Add(peerPause)); key.kind == kube.KindBGPPeer && wait > 0 {
		l.delay(&f.attempt, wait)
		return
	}
	f.written = time.Now()
	l.submit(&f.attempt, job{
		kind: strings.ToLower(key.kind), object: key.name,
		do: func(ctx context.Context) (kube.Outcome, error) { return l.Cluster.WriteObjectStatus(ctx, found) },
		done: func(o kube.Outcome) {
			if o == kube.Done {
				l.tellFinding(kube.Reference(key.kind, is), conditions, found.Finding)
			}
		},
	})
}

// settlePools takes note of what was decided about pools, and writes what has
// become of them.
func (l *loop) settlePools(decisions []allocator.PoolDecision, ch kube.Changes) {
	for _, d := range decisions {
		p := l.pools[d.Pool]
		if p == nil {
			p = &pool{}
			p.settle = func() { l.settlePool(d.Pool, p) }
			l.pools[d.Pool] = p
		}
		p.decision = d
		l.Metrics.pool(d)
	}
	for name, p := range l.pools {
		if _, exists := l.Cluster.Pool(name); !exists {
			delete(l.delayed, &p.attempt)
			delete(l.pools, name)
			l.Metrics.forget(name)
			l.Metrics.object(kindOfPools, p.reason, "")
			continue
		}
		clashed := !slices.Equal(p.clashes, l.clashes[name])
		p.clashes = l.clashes[name]
		if ch.Config || ch.Pools || clashed || l.orphaned[name] || slices.ContainsFunc(decisions, func(d allocator.PoolDecision) bool { return d.Pool == name }) {
			l.look(&p.attempt)
		}
	}
	clear(l.orphaned)
}

// settlePool keeps a pool from being deleted while it is in use, and then writes
// its status when that differs: after a pause when it was written just now, so
// that what happens meanwhile is written together.
func (l *loop) settlePool(name string, p *pool) {
	is, ok := l.Cluster.Pool(name)
	if !ok || l.pools[name] != p {
		return
	}
	if inUse := p.decision.InUse; kube.NeedsFinalizer(is, inUse) {
		l.submit(&p.attempt, job{
			kind: kindFinalizer, object: name,
			do: func(ctx context.Context) (kube.Outcome, error) { return l.Cluster.SetPoolInUse(ctx, is, inUse) },
			done: func(o kube.Outcome) {
				now, ok := l.Cluster.Pool(name)
				p.again = p.again || ok && now.ResourceVersion != is.ResourceVersion
			},
		})
		return
	}
	report := l.poolReport(is, p)
	l.Metrics.object(kindOfPools, p.reason, report.finding.Reason())
	p.reason = report.finding.Reason()
	leaving := p.decision.InUse && len(report.orphans) == 0 // the last Service is written elsewhere
	if is.DeletionTimestamp != nil && (leaving || len(is.Finalizers) == 0) {
		return // it goes, or has gone
	}
	want := report.status(is.Status)
	if kube.SamePoolStatus(is.Status, want) {
		return
	}
	if wait := time.Until(p.written.Add(poolPause)); wait > 0 {
		l.delay(&p.attempt, wait)
		return
	}
	p.written = time.Now()
	l.submit(&p.attempt, job{
		kind: kindPool, object: name,
		do: func(ctx context.Context) (kube.Outcome, error) { return l.Cluster.WritePoolStatus(ctx, is, want) },
		done: func(o kube.Outcome) {
			if o == kube.Done {
				l.tellFinding(kube.Reference(kindOfPools, is), is.Status.Conditions, report.finding)
			}
		},
	})
}

// tellFinding reports that an object is not acted on as written any more, or is
// again.
func (l *loop) tellFinding(about corev1.ObjectReference, was []metav1.Condition, v config.Finding) {
	is := v.Condition()
	before := meta.FindStatusCondition(was, is.Type)
	if before == nil && v.Accepted() || before != nil && before.Reason == is.Reason {
		return
	}
	l.Events.Record(kube.Event{About: about, Warning: !v.Accepted(), Reason: is.Reason, Action: "Accept", Note: is.Message})
}

// poolReport collects what a pool's status is made of.
func (l *loop) poolReport(is *v1beta1.IPAddressPool, p *pool) poolReport {
	r := poolReport{decision: p.decision, now: time.Now(), finding: l.findings[objectKey{kindOfPools, is.Name}]}
	r.finding.Problems = slices.Concat(r.finding.Problems, p.clashes)
	if i, found := slices.BinarySearchFunc(l.setting.Pools, is.Name, func(p lb.Pool, name string) int { return cmp.Compare(p.Name, name) }); found {
		r.served, r.retention = l.setting.Pools[i].Ranges, l.setting.Pools[i].Retention
	}
	if p.decision.V4.Orphans+p.decision.V6.Orphans > 0 {
		r.orphans = l.orphans(is.Name)
	}
	if is.DeletionTimestamp != nil {
		r.finding.Problems = append(r.finding.Problems, config.Deleting(r.orphans))
	}
	return r
}
