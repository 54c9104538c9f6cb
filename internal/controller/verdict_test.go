package controller_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
)

// accepted waits until a BGPAdvertisement's condition says so.
func (w *world) accepted(name, reason string, status metav1.ConditionStatus, text string) {
	w.Helper()
	w.eventually(name+" is "+reason, func() (string, bool) {
		ad, err := w.own.BelfryV1beta1().BGPAdvertisements().Get(w.Context(), name, metav1.GetOptions{})
		w.must(err)
		c := meta.FindStatusCondition(ad.Status.Conditions, v1beta1.ConditionAccepted)
		if c == nil {
			return "no condition", false
		}
		return fmt.Sprintf("%+v", *c), c.Reason == reason && c.Status == status && strings.Contains(c.Message, text)
	})
}

func TestContradictionsAreToldOnTheYounger(t *testing.T) {
	w := newWorld(t)
	ctx := context.WithoutCancel(t.Context())
	own := w.own.BelfryV1beta1()
	node, err := w.core.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "disputed"}}, metav1.CreateOptions{})
	w.must(err)
	t.Cleanup(func() { w.must(w.core.CoreV1().Nodes().Delete(ctx, node.Name, metav1.DeleteOptions{})) })
	_, err = own.BGPPeers().Create(ctx, &v1beta1.BGPPeer{
		ObjectMeta: metav1.ObjectMeta{Name: "tor"},
		Spec: v1beta1.BGPPeerSpec{
			MyASN: 65000, PeerASN: 65001, PeerAddress: "2001:db8::1",
			AddressFamilies: []v1beta1.AddressFamily{v1beta1.IPv4, v1beta1.IPv6},
		},
	}, metav1.CreateOptions{})
	w.must(err)
	t.Cleanup(func() { w.must(own.BGPPeers().Delete(ctx, "tor", metav1.DeleteOptions{})) })
	for name, med := range map[string]int64{"a-older": 1, "b-younger": 2} {
		_, err := own.BGPAdvertisements().Create(ctx, &v1beta1.BGPAdvertisement{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1beta1.BGPAdvertisementSpec{MED: &med},
		}, metav1.CreateOptions{})
		w.must(err)
		t.Cleanup(func() { _ = own.BGPAdvertisements().Delete(ctx, name, metav1.DeleteOptions{}) })
	}
	w.start("a")
	// Without an address there is nothing to disagree about.
	w.accepted("a-older", "Accepted", metav1.ConditionTrue, "")
	w.accepted("b-younger", "Accepted", metav1.ConditionTrue, "")
	w.pool("edge", nil, "192.0.2.0/24", "2001:db8:e::/64")
	w.expose("web", dualStack)
	ads, err := own.BGPAdvertisements().List(ctx, metav1.ListOptions{})
	w.must(err)
	younger, older := "b-younger", "a-older"
	if ads.Items[1].CreationTimestamp.Before(&ads.Items[0].CreationTimestamp) {
		younger, older = older, younger // a second passed between them
	}
	w.accepted(younger, "Conflict", metav1.ConditionFalse, "spec.med: med of 192.0.2.0/32 to tor contradicts the older BGPAdvertisement "+older)
	w.accepted(older, "Accepted", metav1.ConditionTrue, "")
	w.must(own.BGPAdvertisements().Delete(ctx, older, metav1.DeleteOptions{}))
	w.accepted(younger, "Accepted", metav1.ConditionTrue, "")
	// A Service that is advertised by BGP alone lacks no L2Advertisement.
	w.becomes("web", "192.0.2.0 2001:db8:e:: pool=edge Allocated=True/Allocated Announced=False/NoEndpoint")
}
