package lab

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// A Cluster is etcd, the API server and the controllers, and how one speaks to
// them: credentials, kubectl, and the log of what was asked.
type Cluster struct {
	run       *run
	network   *Network
	processes *Processes
	// ca signs the run's certificates; nil in a process that did not bring it up.
	ca *authority
}

const (
	serviceCIDRv4 = "10.96.0.0/16"
	serviceCIDRv6 = "fd00:96::/112"
	apiPort       = "6443"
	admin         = "admin"
)

// auditPolicy records every request once, when it is answered, without its
// body: enough to prove that somebody wrote nothing.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
`

// identities are the clients that get a certificate; RBAC's own bootstrap roles
// say what each may do. The admin stands for the person at the keyboard, and
// for the lab itself; nothing of the product ever runs as one of these.
var identities = map[string]pkix.Name{
	admin:                     {CommonName: admin, Organization: []string{"system:masters"}},
	"kube-controller-manager": {CommonName: "system:kube-controller-manager"},
	"kube-scheduler":          {CommonName: "system:kube-scheduler"},
	"kube-proxy":              {CommonName: "system:kube-proxy"},
}

// apiserverClient is what the API server is to kubelets.
const apiserverClient = "apiserver-kubelet-client"

// identities are those of this run, with its kubelets.
func (c *Cluster) identities() map[string]pkix.Name {
	all := maps.Clone(identities)
	if c.run.options.Containers {
		all[apiserverClient] = pkix.Name{CommonName: apiserverClient, Organization: []string{"system:masters"}}
		for _, node := range c.network.Nodes() {
			all["kubelet-"+node] = pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}
		}
	}
	return all
}

// address is where etcd and the API server listen. A run without
// namespaces takes a loopback address that its name decides.
func (c *Cluster) address() netip.Addr {
	if !c.run.options.ControlPlaneOnly {
		return addressesOf(ControlPlane).v4
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(c.run.name, "bf"), 16, 16)
	if err != nil {
		panic(fmt.Sprintf("run name %q", c.run.name)) // create made it
	}
	return netip.AddrFrom4([4]byte{127, 77, byte(n >> 8), byte(n)})
}

// Server is the URL of the API server, as every host reaches it.
func (c *Cluster) Server() string {
	return "https://" + net.JoinHostPort(c.address().String(), apiPort)
}

// host is where they run; empty for a run without namespaces.
func (c *Cluster) host() string {
	if c.run.options.ControlPlaneOnly {
		return ""
	}
	return ControlPlane
}

// pki is a file among the run's keys and certificates, or their directory.
func (c *Cluster) pki(file ...string) string {
	return filepath.Join(append([]string{c.run.dir, "pki"}, file...)...)
}

// writeCredentials makes the run's authority, certificates and kubeconfigs.
func (c *Cluster) writeCredentials() error {
	ca, err := newAuthority(c.run.name)
	if err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	c.ca = ca
	if err := os.Mkdir(c.pki(), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(c.pki("ca.crt"), ca.pem, 0o644); err != nil {
		return err
	}
	if err := writeSigningKey(c.pki()); err != nil {
		return fmt.Errorf("token signing key: %w", err)
	}
	if err := c.ReplaceServingCertificate(); err != nil {
		return err
	}
	for name, subject := range c.identities() {
		cert, key, err := ca.issue(subject, nil)
		if err != nil {
			return err
		}
		if err := writeCert(c.pki(), name, cert, key); err != nil {
			return err
		}
		if err := c.writeKubeconfig(name, &clientcmdapi.AuthInfo{ClientCertificate: c.pki(name + ".crt"), ClientKey: c.pki(name + ".key")}); err != nil {
			return err
		}
	}
	return nil
}

// ReplaceServingCertificate writes another certificate for the API server, which
// takes it up by itself. Only the process that brought the run up can.
func (c *Cluster) ReplaceServingCertificate() error {
	if c.ca == nil {
		return errors.New("replace the serving certificate: another process has the authority")
	}
	serving := []netip.Addr{
		c.address(), netip.MustParseAddr("127.0.0.1"),
		netip.MustParsePrefix(serviceCIDRv4).Addr().Next(), netip.MustParsePrefix(serviceCIDRv6).Addr().Next(),
	}
	cert, key, err := c.ca.issue(pkix.Name{CommonName: "kube-apiserver"}, serving, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
	if err != nil {
		return err
	}
	return writeCert(c.pki(), "apiserver", cert, key)
}

func (c *Cluster) writeKubeconfig(name string, who *clientcmdapi.AuthInfo) error {
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[c.run.name] = &clientcmdapi.Cluster{Server: c.Server(), CertificateAuthority: c.pki("ca.crt")}
	cfg.AuthInfos[name] = who
	cfg.Contexts[c.run.name] = &clientcmdapi.Context{Cluster: c.run.name, AuthInfo: name}
	cfg.CurrentContext = c.run.name
	// At once: a process that was just started may be reading the one before.
	path := c.kubeconfig(name)
	if err := clientcmd.WriteToFile(*cfg, path+".new"); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (c *Cluster) kubeconfig(name string) string {
	return c.pki(fileName(name) + ".kubeconfig")
}

// AdminKubeconfig is the path of a kubeconfig that may do everything. It works
// where the API server's address does: in the run's hosts.
func (c *Cluster) AdminKubeconfig() string { return c.kubeconfig(admin) }

// start starts etcd and the API server and waits until it is ready.
func (c *Cluster) start(ctx context.Context) error {
	if err := c.writeCredentials(); err != nil {
		return err
	}
	var (
		host   = c.host()
		ip     = c.address().String()
		client = "http://" + net.JoinHostPort(ip, "2379")
		peer   = "http://" + net.JoinHostPort(ip, "2380")
		policy = c.run.data("audit-policy.yaml")
	)
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o644); err != nil {
		return err
	}
	c.run.say("starting etcd and kube-apiserver")
	etcd, err := c.processes.spawn("etcd", host, c.run.programs["etcd"],
		"--name=lab", "--data-dir="+c.run.data("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=lab="+peer,
		"--log-level=warn")
	if err != nil {
		return err
	}
	apiserver, err := c.processes.spawn("kube-apiserver", host, append([]string{
		c.run.programs["kube-apiserver"],
		"--etcd-servers=" + client,
		"--bind-address=" + ip, "--advertise-address=" + ip, "--secure-port=" + apiPort,
		"--tls-cert-file=" + c.pki("apiserver.crt"), "--tls-private-key-file=" + c.pki("apiserver.key"), "--client-ca-file=" + c.pki("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.pki("sa.pub"), "--service-account-signing-key-file=" + c.pki("sa.key"),
		"--authorization-mode=Node,RBAC",
		"--service-cluster-ip-range=" + serviceCIDRv4 + "," + serviceCIDRv6,
		"--allow-privileged=true",
		"--audit-policy-file=" + policy, "--audit-log-path=" + c.auditLog(), "--audit-log-maxsize=1000",
		fmt.Sprintf("--profiling=%t", c.run.options.Profile), "--shutdown-delay-duration=0s",
	}, c.nodeFlags()...)...)
	if err != nil {
		return err
	}
	return c.awaitAPI(ctx, etcd, apiserver)
}

// controllers are the parts of the controller manager that run. None of them
// judges the health of nodes: a node of the lab is Ready for as long as the
// test leaves it so, and its endpoints change when the test says so.
var controllers = []string{
	"clusterrole-aggregation-controller",
	"deployment-controller",
	"endpointslice-controller",
	"garbage-collector-controller",
	"namespace-controller",
	"replicaset-controller",
	"serviceaccount-controller",
}

// startControllers starts the controller manager and the scheduler.
func (c *Cluster) startControllers() error {
	manager := []string{"--use-service-account-credentials=true"}
	if c.run.options.Containers {
		manager = append(manager,
			"--controllers=*",
			"--root-ca-file="+c.pki("ca.crt"),
			// A dead node is noticed sooner, for the tests' sake.
			"--node-monitor-grace-period=10s", "--node-monitor-period=1s")
	} else {
		manager = append(manager, "--controllers="+strings.Join(controllers, ","))
	}
	for _, program := range []struct {
		name  string
		flags []string
	}{{"kube-controller-manager", manager}, {"kube-scheduler", nil}} {
		args := append([]string{
			c.run.programs[program.name],
			"--kubeconfig=" + c.kubeconfig(program.name),
			"--authentication-skip-lookup=true",
			"--leader-elect=false",
			"--kube-api-qps=200", "--kube-api-burst=400",
		}, program.flags...)
		if _, err := c.processes.spawn(program.name, ControlPlane, args...); err != nil {
			return err
		}
	}
	return nil
}

// RestartAPI kills the API server, starts it again and waits until it is ready.
func (c *Cluster) RestartAPI(ctx context.Context) error {
	const name = "kube-apiserver"
	p, err := c.processes.Process(name)
	if err != nil {
		return err
	}
	if err := p.Kill(ctx); err != nil {
		return err
	}
	if err := c.processes.Restart(ctx, name); err != nil {
		return err
	}
	return c.awaitAPI(ctx, p)
}

// awaitControllers returns when what the controllers make, and a Pod's creation
// needs, is there.
func (c *Cluster) awaitControllers(ctx context.Context) error {
	cs, err := kubernetes.NewForConfig(c.AdminConfig())
	if err != nil {
		return err
	}
	return await(ctx, "wait for the service account controller", func() error {
		_, err := cs.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return err
		}
		return c.processes.firstDead(err)
	})
}

// awaitAPI waits until the API server is ready and gives Services cluster IPs, as long
// as what it is made of runs. It calls itself ready sooner: until it has read its own
// ServiceCIDRs, it refuses every new Service as "range is full".
func (c *Cluster) awaitAPI(ctx context.Context, parts ...*Process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("a minute has passed"))
	defer cancel()
	cs, err := kubernetes.NewForConfig(c.AdminConfig())
	if err != nil {
		return err
	}
	return await(ctx, "wait for the API server", func() error {
		for _, p := range parts {
			if !p.Alive() {
				// It will not come; no need to wait for the deadline.
				cancel()
				return fmt.Errorf("%s ended:\n%s", p.Name, p.Tail(15))
			}
		}
		probe, done := context.WithTimeout(ctx, 5*time.Second)
		defer done()
		body, err := cs.Discovery().RESTClient().Get().AbsPath("/readyz").Param("verbose", "").DoRaw(probe)
		if err != nil && len(body) > 0 {
			return fmt.Errorf("%w:\n%s", err, failingChecks(body))
		}
		if err != nil {
			return err
		}
		_, err = cs.CoreV1().Services(metav1.NamespaceDefault).Create(probe, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "ready-"},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}},
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	})
}

// nodeFlags are what the API server is told of the kind of nodes.
func (c *Cluster) nodeFlags() []string {
	if c.run.options.Containers {
		return []string{
			"--enable-admission-plugins=NodeRestriction",
			"--kubelet-client-certificate=" + c.pki(apiserverClient+".crt"), "--kubelet-client-key=" + c.pki(apiserverClient+".key"),
			"--kubelet-preferred-address-types=InternalIP",
		}
	}
	return []string{
		// No Pod of the lab asks for the Service "kubernetes".
		"--endpoint-reconciler-type=none",
		// It taints every new Node as not ready, for the node lifecycle controller
		// to lift; the lab runs none, as its nodes say themselves what they are.
		"--disable-admission-plugins=TaintNodesByCondition",
	}
}

// failingChecks keeps the lines of a verbose /readyz that matter.
func failingChecks(body []byte) string {
	var failing []string
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "[-]") {
			failing = append(failing, line)
		}
	}
	return strings.Join(failing, "")
}

// AdminConfig is a client configuration of the admin for this process: it
// dials inside the run's namespaces, and its rate is not limited.
func (c *Cluster) AdminConfig() *rest.Config {
	cfg := &rest.Config{
		Host:            c.Server(),
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.pki("ca.crt"), CertFile: c.pki(admin + ".crt"), KeyFile: c.pki(admin + ".key")},
		QPS:             -1,
	}
	if host := c.host(); host != "" {
		cfg.Dial = c.network.dialer(host)
	}
	return cfg
}

// ConfigFor is a client configuration of a ServiceAccount for this process,
// with a token of its own. The account must exist.
func (c *Cluster) ConfigFor(ctx context.Context, namespace, serviceAccount string) (*rest.Config, error) {
	return c.ConfigOn(ctx, "", namespace, serviceAccount)
}

// ConfigOn is ConfigFor with the token of a Pod on a node.
func (c *Cluster) ConfigOn(ctx context.Context, node, namespace, serviceAccount string) (*rest.Config, error) {
	token, err := c.token(ctx, node, namespace, serviceAccount)
	if err != nil {
		return nil, err
	}
	cfg := c.AdminConfig()
	cfg.TLSClientConfig = rest.TLSClientConfig{CAFile: c.pki("ca.crt")}
	cfg.BearerToken = token
	return cfg, nil
}

// KubeconfigFor writes a kubeconfig of a ServiceAccount for a process in the
// run's hosts and returns its path. The account must exist.
func (c *Cluster) KubeconfigFor(ctx context.Context, namespace, serviceAccount string) (string, error) {
	return c.KubeconfigOn(ctx, "", namespace, serviceAccount)
}

// KubeconfigOn is KubeconfigFor with the token of a Pod on a node.
func (c *Cluster) KubeconfigOn(ctx context.Context, node, namespace, serviceAccount string) (string, error) {
	token, err := c.token(ctx, node, namespace, serviceAccount)
	if err != nil {
		return "", err
	}
	name := namespace + "/" + serviceAccount
	if node != "" {
		name += "-" + node
	}
	return c.kubeconfig(name), c.writeKubeconfig(name, &clientcmdapi.AuthInfo{Token: token})
}

func (c *Cluster) token(ctx context.Context, node, namespace, serviceAccount string) (string, error) {
	cs, err := kubernetes.NewForConfig(c.AdminConfig())
	if err != nil {
		return "", err
	}
	day := int64((24 * time.Hour).Seconds())
	spec := authenticationv1.TokenRequestSpec{ExpirationSeconds: &day}
	if node != "" {
		pod, err := podOn(ctx, cs, node, namespace, serviceAccount)
		if err != nil {
			return "", fmt.Errorf("token for %s/%s: %w", namespace, serviceAccount, err)
		}
		spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	tr, err := cs.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, serviceAccount, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("token for %s/%s: %w", namespace, serviceAccount, err)
	}
	return tr.Status.Token, nil
}

// podOn returns the Pod of a ServiceAccount on a node, and creates it if there is
// none. Nobody runs it: it is there for its token, which names Pod and node as that of
// a Pod that runs does, and is good for nothing once the Pod is deleted.
func podOn(ctx context.Context, cs kubernetes.Interface, node, namespace, serviceAccount string) (*corev1.Pod, error) {
	pods, name := cs.CoreV1().Pods(namespace), serviceAccount+"-"+node
	pod, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: serviceAccount,
			Containers:  []corev1.Container{{Name: "none", Image: "none"}},
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return pods.Get(ctx, name, metav1.GetOptions{})
	}
	return pod, err
}
