package objects

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/report"
	"github.com/belfrylb/belfry/internal/speakerstatus"
)

// CompareVersions orders two versions of objects of a kind by when they were written.
// Versions of which that cannot be told are equal.
func CompareVersions(a, b string) int {
	n, err := resourceversion.CompareResourceVersion(a, b)
	if err != nil {
		return 0
	}
	return n
}

// Reports returns what SpeakerStatuses say, in the order in which they were written. When
// they were received is not known.
func Reports(all []*v1beta1.SpeakerStatus) []report.Report {
	sorted := slices.SortedFunc(slices.Values(all), func(a, b *v1beta1.SpeakerStatus) int {
		return cmp.Or(CompareVersions(a.ResourceVersion, b.ResourceVersion), cmp.Compare(a.Name, b.Name))
	})
	out := make([]report.Report, len(sorted))
	for i, s := range sorted {
		out[i] = speakerstatus.Read(s)
		out[i].Order = i
	}
	return out
}
