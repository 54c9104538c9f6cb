package lab

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Annotations by which a test tells the kubelet how a Pod behaves.
const (
	// AnnotationReady set to "false" makes a running Pod unready.
	AnnotationReady = "lab.belfry.dev/ready"
	// AnnotationLinger is how long a deleted Pod goes on serving; [defaultLinger]
	// when absent.
	AnnotationLinger = "lab.belfry.dev/linger"
)

const defaultLinger = time.Second

// resync is how soon what could not be done is tried again.
const resync = 2 * time.Second

// RunKubelet stands in for the kubelets of all nodes: each Pod that is bound to
// a node gets addresses of that node's range and an HTTP server in the
// namespace of that node's pods, and is Ready at once. It returns when ctx
// ends.
func (m *Machines) RunKubelet(ctx context.Context, log *slog.Logger) error {
	cs, err := kubernetes.NewForConfig(m.cluster.AdminConfig())
	if err != nil {
		return err
	}
	k := &kubelet{network: m.network, cs: cs, log: log, pods: map[types.UID]*pod{}}
	factory := informers.NewSharedInformerFactory(cs, resync)
	informer := factory.Core().V1().Pods().Informer()
	sync := func(obj any) {
		if p, ok := obj.(*corev1.Pod); ok && p.Spec.NodeName != "" {
			k.sync(ctx, p)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    sync,
		UpdateFunc: func(_, obj any) { sync(obj) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if p, ok := obj.(*corev1.Pod); ok {
				k.stop(p.UID)
			}
		},
	}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
	k.wait.Wait()
	return nil
}

type kubelet struct {
	network *Network
	cs      kubernetes.Interface
	log     *slog.Logger
	wait    sync.WaitGroup

	mu   sync.Mutex
	pods map[types.UID]*pod
}

// A pod is a Pod that runs here.
type pod struct {
	node    string
	ips     []netip.Addr
	servers []*http.Server
	// leaving is set when its end has begun.
	leaving bool
}

// sync makes one Pod so. It runs on the informer's goroutine, one Pod at a time.
func (k *kubelet) sync(ctx context.Context, p *corev1.Pod) {
	log := k.log.With("pod", p.Namespace+"/"+p.Name, "node", p.Spec.NodeName)
	if p.DeletionTimestamp != nil {
		k.leave(ctx, p, log)
		return
	}
	running, err := k.ensure(p)
	if err != nil {
		log.Error("cannot run", "err", err)
		return
	}
	status := podStatus(p, running.ips)
	if samePodStatus(p.Status, status) {
		return
	}
	update := p.DeepCopy()
	update.Status = status
	if _, err := k.cs.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		log.Error("cannot write its status", "err", err)
	}
}

// ensure starts a Pod's servers if they do not run.
func (k *kubelet) ensure(p *corev1.Pod) (*pod, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if running := k.pods[p.UID]; running != nil {
		return running, nil
	}
	ips, err := k.addressesFor(p)
	if err != nil {
		return nil, err
	}
	running := &pod{node: p.Spec.NodeName, ips: ips}
	if err := k.serve(p, running); err != nil {
		k.end(running)
		return nil, err
	}
	k.pods[p.UID] = running
	return running, nil
}

// serve gives a Pod its addresses and starts its servers.
func (k *kubelet) serve(p *corev1.Pod, running *pod) error {
	host := podHost(running.node)
	if err := ipBatch(context.Background(), k.network.Netns(host), addressLines("replace", running.ips, "nodad")); err != nil {
		return err
	}
	handler := answer(p)
	for _, ip := range running.ips {
		for _, port := range ports(p) {
			var ln net.Listener
			if err := k.network.inside(host, func() (err error) {
				ln, err = net.Listen("tcp", net.JoinHostPort(ip.String(), port))
				return err
			}); err != nil {
				return err
			}
			srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
			running.servers = append(running.servers, srv)
			k.wait.Go(func() { _ = srv.Serve(ln) })
		}
	}
	return nil
}

// addressLines are ip's commands for a Pod's addresses.
func addressLines(verb string, ips []netip.Addr, flags ...string) []string {
	var lines []string
	for _, ip := range ips {
		bits := 24
		if ip.Is6() {
			bits = 64
		}
		line := fmt.Sprintf("address %s %s/%d dev %s", verb, ip, bits, NIC)
		if ip.Is6() {
			line += " " + strings.Join(flags, " ")
		}
		lines = append(lines, line)
	}
	return lines
}

// addressesFor picks the lowest free address of each of the node's ranges, or
// what the Pod has already. k.mu is held.
func (k *kubelet) addressesFor(p *corev1.Pod) ([]netip.Addr, error) {
	var ips []netip.Addr
	for _, ip := range p.Status.PodIPs {
		a, err := netip.ParseAddr(ip.IP)
		if err != nil {
			return nil, err
		}
		ips = append(ips, a)
	}
	if len(ips) > 0 {
		return ips, nil
	}
	v4, v6 := podPrefixes(p.Spec.NodeName)
	for _, prefix := range []netip.Prefix{v4, v6} {
		a := prefix.Addr()
		for range 10 { // the first ten are for the node's own use
			a = a.Next()
		}
		for k.taken(a) {
			a = a.Next()
		}
		ips = append(ips, a)
	}
	return ips, nil
}

func (k *kubelet) taken(a netip.Addr) bool {
	for _, p := range k.pods {
		if slices.Contains(p.ips, a) {
			return true
		}
	}
	return false
}

// leave ends a Pod as an orderly container does: it serves on for a moment,
// finishes what is under way, and is gone.
func (k *kubelet) leave(ctx context.Context, p *corev1.Pod, log *slog.Logger) {
	k.mu.Lock()
	running := k.pods[p.UID]
	if running != nil && running.leaving {
		k.mu.Unlock()
		return
	}
	if running != nil {
		running.leaving = true
	}
	k.mu.Unlock()
	linger := defaultLinger
	if d, err := time.ParseDuration(p.Annotations[AnnotationLinger]); err == nil {
		linger = d
	}
	if p.DeletionGracePeriodSeconds != nil {
		linger = min(linger, time.Duration(*p.DeletionGracePeriodSeconds)*time.Second)
	}
	k.wait.Go(func() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(linger):
		}
		k.stop(p.UID)
		now := int64(0)
		err := k.cs.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &p.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			log.Error("cannot delete it", "err", err)
		}
	})
}

// stop ends a Pod's servers and takes its addresses away.
func (k *kubelet) stop(uid types.UID) {
	k.mu.Lock()
	running := k.pods[uid]
	delete(k.pods, uid)
	k.mu.Unlock()
	if running != nil {
		k.end(running)
	}
}

func (k *kubelet) end(running *pod) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, srv := range running.servers {
		if err := srv.Shutdown(ctx); err != nil {
			_ = srv.Close()
		}
	}
	if err := ipBatch(context.Background(), k.network.Netns(podHost(running.node)), addressLines("delete", running.ips)); err != nil {
		k.log.Error("cannot remove addresses", "node", running.node, "err", err)
	}
}

// ports are the TCP ports that a Pod declares, else 80.
func ports(p *corev1.Pod) []string {
	var all []string
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.Protocol == corev1.ProtocolTCP || port.Protocol == "" {
				all = append(all, strconv.Itoa(int(port.ContainerPort)))
			}
		}
	}
	if len(all) == 0 {
		return []string{"80"}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// answer tells who answers and whom: what a test asks of a backend.
func answer(p *corev1.Pod) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "node=%s pod=%s client=%s\n", p.Spec.NodeName, p.Name, client)
	})
}

func podStatus(p *corev1.Pod, ips []netip.Addr) corev1.PodStatus {
	ready := corev1.ConditionTrue
	if p.Annotations[AnnotationReady] == "false" {
		ready = corev1.ConditionFalse
	}
	host := addressesOf(p.Spec.NodeName)
	st := corev1.PodStatus{
		Phase:   corev1.PodRunning,
		HostIP:  host.v4.String(),
		HostIPs: []corev1.HostIP{{IP: host.v4.String()}, {IP: host.v6.String()}},
		PodIP:   ips[0].String(),
	}
	now := metav1.Now()
	st.StartTime = p.Status.StartTime
	if st.StartTime == nil {
		st.StartTime = &now
	}
	for _, ip := range ips {
		st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	for _, t := range []corev1.PodConditionType{corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: now}
		if t == corev1.PodReady || t == corev1.ContainersReady {
			c.Status = ready
		}
		st.Conditions = append(st.Conditions, c)
	}
	for _, c := range p.Spec.Containers {
		started := true
		st.ContainerStatuses = append(st.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: ready == corev1.ConditionTrue, Started: &started,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: *st.StartTime}},
		})
	}
	return st
}

func samePodStatus(a, b corev1.PodStatus) bool {
	return a.Phase == b.Phase && slices.Equal(a.PodIPs, b.PodIPs) && readiness(a) == readiness(b)
}

func readiness(s corev1.PodStatus) corev1.ConditionStatus {
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}
