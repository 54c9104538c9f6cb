package speakerstatus

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
	"github.com/belfrylb/belfry/internal/ranges"
)

// proofs says what the segment says: what is as it should be by node, and the rest by
// what is wrong and who answers. That something was verified again is not in it.
func proofs(results []proof.Result) (good []v1beta1.Layer2Verified, bad []v1beta1.Layer2Fault) {
	verified := map[string][]netip.Addr{}
	type fault struct {
		node, reason, by string
	}
	since := map[fault]time.Time{}
	by := map[fault][]v1beta1.Layer2Station{}
	faults := map[fault][]netip.Addr{}
	for _, v := range results {
		if v.Kind == proof.Verified {
			verified[v.Owner] = append(verified[v.Owner], v.Address)
			continue
		}
		var key strings.Builder
		var stations []v1beta1.Layer2Station
		for _, s := range first(v.By, maxAnsweredBy) {
			stations = append(stations, v1beta1.Layer2Station{MAC: s.MAC.String(), Node: s.Node, Voice: v1beta1.Layer2Voice(s.Voice.String())})
			key.WriteString(s.MAC.String() + s.Node + s.Voice.String())
		}
		f := fault{v.Owner, v.Kind.String(), key.String()}
		if at, known := since[f]; !known || v.Since.Before(at) {
			since[f] = v.Since
		}
		by[f], faults[f] = stations, append(faults[f], v.Address)
	}
	left := maxElements
	for _, node := range first(slices.Sorted(maps.Keys(verified)), maxVerified) {
		list := first(ranges.Format(verified[node]), left)
		if left -= len(list); len(list) > 0 {
			good = append(good, v1beta1.Layer2Verified{Node: node, Addresses: list})
		}
	}
	order := slices.SortedFunc(maps.Keys(faults), func(a, b fault) int {
		return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.reason, b.reason), cmp.Compare(a.by, b.by))
	})
	for _, f := range first(order, maxFaults) {
		bad = append(bad, v1beta1.Layer2Fault{
			Node: f.node, Reason: v1beta1.Layer2FaultReason(f.reason), Since: metav1.NewMicroTime(since[f].Truncate(time.Microsecond)),
			AnsweredBy: by[f], Addresses: first(ranges.Format(faults[f]), maxFaultElements),
		})
	}
	return good, bad
}

// readProofs reads what proofs writes.
func readProofs(good []v1beta1.Layer2Verified, bad []v1beta1.Layer2Fault) (out []proof.Result) {
	for _, v := range good {
		for _, a := range addresses(v.Addresses) {
			out = append(out, proof.Result{Address: a, Owner: v.Node, Kind: proof.Verified})
		}
	}
	for _, f := range bad {
		v := proof.Result{Owner: f.Node, Kind: proof.Unanswered, Since: f.Since.Time}
		if f.Reason == v1beta1.FaultAnsweredTwice {
			v.Kind = proof.AnsweredTwice
		}
		for _, s := range f.AnsweredBy {
			if is, ok := Station(s); ok {
				v.By = append(v.By, is)
			}
		}
		for _, v.Address = range addresses(f.Addresses) {
			out = append(out, v)
		}
	}
	return out
}

// Station reads who has answered.
func Station(s v1beta1.Layer2Station) (is proof.Station, ok bool) {
	mac, err := lb.ParseMAC(s.MAC)
	return proof.Station{MAC: mac, Node: s.Node, Voice: proof.ParseVoice(string(s.Voice))}, err == nil
}

// probe says what came of a request.
func probe(r proof.Response) *v1beta1.ProbeStatus {
	out := &v1beta1.ProbeStatus{
		Request: cut(r.Request, proof.RequestMost), At: metav1.NewMicroTime(r.At.Truncate(time.Microsecond)), Interface: r.Interface,
		Total: count(len(r.Heard)), Problem: cut(r.Problem, maxText),
	}
	for _, h := range first(r.Heard, maxProbeAnswers) {
		out.Answers = append(out.Answers, v1beta1.ProbeAnswer{
			MAC: h.MAC.String(), Node: h.Node, Voice: v1beta1.Layer2Voice(h.Voice.String()), AfterMicroseconds: count(int(h.After.Microseconds())),
		})
	}
	return out
}
