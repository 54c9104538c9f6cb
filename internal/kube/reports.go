package kube

import (
	"cmp"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/report"
	"github.com/belfrylb/belfry/internal/speakerstatus"
)

// reduceReport keeps of a SpeakerStatus what others are told by.
func reduceReport(s *v1beta1.SpeakerStatus) report.Report {
	r := speakerstatus.Read(s)
	r.Seen = time.Now()
	return r
}

func (c *Cluster) reportChanged(_, _ *row[report.Report]) {
	c.changes.reports = true
	c.notify()
}

// Reports returns what the speakers say ([Allocating] only), in the order in which
// it was written; nil while that cannot be read.
func (c *Cluster) Reports() []report.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reporting.refusal != readable {
		return nil
	}
	order := slices.SortedFunc(maps.Values(c.reports.rows), func(a, b *row[report.Report]) int {
		return cmp.Or(objects.CompareVersions(a.version, b.version), cmp.Compare(a.name.Name, b.name.Name))
	})
	out := make([]report.Report, len(order))
	for i, r := range order {
		out[i] = r.value
		out[i].Order = i
	}
	return out
}

// SpeakerReference names a node's SpeakerStatus in Events.
func (c *Cluster) SpeakerReference(node string) (corev1.ObjectReference, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.reports.rows[name{Name: node}]
	if r == nil {
		return corev1.ObjectReference{}, false
	}
	return corev1.ObjectReference{
		APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: "SpeakerStatus", Name: node, UID: r.uid, ResourceVersion: r.version,
	}, true
}
