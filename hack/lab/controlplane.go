package lab

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

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
func (l *Lab) identities() map[string]pkix.Name {
	all := maps.Clone(identities)
	if l.state.Options.Containers {
		all[apiserverClient] = pkix.Name{CommonName: apiserverClient, Organization: []string{"system:masters"}}
		for _, node := range l.Nodes() {
			all["kubelet-"+node] = pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}
		}
	}
	return all
}

// controlPlaneAddress is where etcd and the API server listen. A run without
// namespaces takes a loopback address that its name decides.
func (l *Lab) controlPlaneAddress() netip.Addr {
	if !l.state.Options.ControlPlaneOnly {
		return addressesOf(ControlPlane).v4
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(l.Name, "bf"), 16, 16)
	if err != nil {
		panic(fmt.Sprintf("run name %q", l.Name)) // create made it
	}
	return netip.AddrFrom4([4]byte{127, 77, byte(n >> 8), byte(n)})
}

// Server is the URL of the API server, as every host reaches it.
func (l *Lab) Server() string {
	return "https://" + net.JoinHostPort(l.controlPlaneAddress().String(), apiPort)
}

func (l *Lab) controlPlaneHost() string {
	if l.state.Options.ControlPlaneOnly {
		return ""
	}
	return ControlPlane
}

func (l *Lab) pki(file string) string { return filepath.Join(l.Dir, pkiDir, file) }

// writeCredentials makes the run's authority, certificates and kubeconfigs.
func (l *Lab) writeCredentials() error {
	ca, err := newAuthority(l.Name)
	if err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	l.ca = ca
	if err := os.WriteFile(l.pki("ca.crt"), ca.pem, 0o644); err != nil {
		return err
	}
	if err := writeSigningKey(filepath.Join(l.Dir, pkiDir)); err != nil {
		return fmt.Errorf("token signing key: %w", err)
	}
	if err := l.ReplaceServingCertificate(); err != nil {
		return err
	}
	for name, subject := range l.identities() {
		cert, key, err := ca.issue(subject, nil)
		if err != nil {
			return err
		}
		if err := writeCert(filepath.Join(l.Dir, pkiDir), name, cert, key); err != nil {
			return err
		}
		if err := l.writeKubeconfig(name, &clientcmdapi.AuthInfo{ClientCertificate: l.pki(name + ".crt"), ClientKey: l.pki(name + ".key")}); err != nil {
			return err
		}
	}
	return nil
}

// ReplaceServingCertificate writes another certificate for the API server, which
// takes it up by itself. Only the process that brought the run up can.
func (l *Lab) ReplaceServingCertificate() error {
	if l.ca == nil {
		return errors.New("replace the serving certificate: another process has the authority")
	}
	serving := []netip.Addr{
		l.controlPlaneAddress(), netip.MustParseAddr("127.0.0.1"),
		netip.MustParsePrefix(serviceCIDRv4).Addr().Next(), netip.MustParsePrefix(serviceCIDRv6).Addr().Next(),
	}
	cert, key, err := l.ca.issue(pkix.Name{CommonName: "kube-apiserver"}, serving, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
	if err != nil {
		return err
	}
	return writeCert(filepath.Join(l.Dir, pkiDir), "apiserver", cert, key)
}

func (l *Lab) writeKubeconfig(name string, who *clientcmdapi.AuthInfo) error {
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[l.Name] = &clientcmdapi.Cluster{Server: l.Server(), CertificateAuthority: l.pki("ca.crt")}
	cfg.AuthInfos[name] = who
	cfg.Contexts[l.Name] = &clientcmdapi.Context{Cluster: l.Name, AuthInfo: name}
	cfg.CurrentContext = l.Name
	// At once: a process that was just started may be reading the one before.
	path := l.kubeconfig(name)
	if err := clientcmd.WriteToFile(*cfg, path+".new"); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (l *Lab) kubeconfig(name string) string {
	return filepath.Join(l.Dir, pkiDir, logName(name)[:len(logName(name))-len(".log")]+".kubeconfig")
}

// AdminKubeconfig is the path of a kubeconfig that may do everything. It works
// where the API server's address does: in the run's hosts.
func (l *Lab) AdminKubeconfig() string { return l.kubeconfig(admin) }

// startControlPlane starts etcd and the API server and waits until it is ready.
func (l *Lab) startControlPlane(ctx context.Context) error {
	if err := l.writeCredentials(); err != nil {
		return err
	}
	var (
		host   = l.controlPlaneHost()
		ip     = l.controlPlaneAddress().String()
		client = "http://" + net.JoinHostPort(ip, "2379")
		peer   = "http://" + net.JoinHostPort(ip, "2380")
		policy = filepath.Join(l.Dir, dataDir, "audit-policy.yaml")
	)
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o644); err != nil {
		return err
	}
	l.say("starting etcd and kube-apiserver")
	etcd, err := l.spawn("etcd", host, l.state.Programs["etcd"],
		"--name=lab", "--data-dir="+filepath.Join(l.Dir, dataDir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=lab="+peer,
		"--log-level=warn")
	if err != nil {
		return err
	}
	apiserver, err := l.spawn("kube-apiserver", host, append([]string{
		l.state.Programs["kube-apiserver"],
		"--etcd-servers=" + client,
		"--bind-address=" + ip, "--advertise-address=" + ip, "--secure-port=" + apiPort,
		"--tls-cert-file=" + l.pki("apiserver.crt"), "--tls-private-key-file=" + l.pki("apiserver.key"), "--client-ca-file=" + l.pki("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + l.pki("sa.pub"), "--service-account-signing-key-file=" + l.pki("sa.key"),
		"--authorization-mode=Node,RBAC",
		"--service-cluster-ip-range=" + serviceCIDRv4 + "," + serviceCIDRv6,
		"--allow-privileged=true",
		"--audit-policy-file=" + policy, "--audit-log-path=" + l.auditLog(), "--audit-log-maxsize=1000",
		"--profiling=false", "--shutdown-delay-duration=0s",
	}, l.nodeFlags()...)...)
	if err != nil {
		return err
	}
	return l.awaitAPI(ctx, etcd, apiserver)
}

// awaitAPI waits until the API server is ready, as long as what it is made of runs.
func (l *Lab) awaitAPI(ctx context.Context, parts ...*Process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("a minute has passed"))
	defer cancel()
	cs, err := kubernetes.NewForConfig(l.AdminConfig())
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
		return err
	})
}

// nodeFlags are what the API server is told of the kind of nodes.
func (l *Lab) nodeFlags() []string {
	if l.state.Options.Containers {
		return []string{
			"--enable-admission-plugins=NodeRestriction",
			"--kubelet-client-certificate=" + l.pki(apiserverClient+".crt"), "--kubelet-client-key=" + l.pki(apiserverClient+".key"),
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
func (l *Lab) AdminConfig() *rest.Config {
	cfg := &rest.Config{
		Host:            l.Server(),
		TLSClientConfig: rest.TLSClientConfig{CAFile: l.pki("ca.crt"), CertFile: l.pki(admin + ".crt"), KeyFile: l.pki(admin + ".key")},
		QPS:             -1,
	}
	if host := l.controlPlaneHost(); host != "" {
		cfg.Dial = l.dialer(host)
	}
	return cfg
}

// ConfigFor is a client configuration of a ServiceAccount for this process,
// with a token of its own. The account must exist.
func (l *Lab) ConfigFor(ctx context.Context, namespace, serviceAccount string) (*rest.Config, error) {
	token, err := l.token(ctx, namespace, serviceAccount)
	if err != nil {
		return nil, err
	}
	cfg := l.AdminConfig()
	cfg.TLSClientConfig = rest.TLSClientConfig{CAFile: l.pki("ca.crt")}
	cfg.BearerToken = token
	return cfg, nil
}

// KubeconfigFor writes a kubeconfig of a ServiceAccount for a process in the
// run's hosts and returns its path. The account must exist.
func (l *Lab) KubeconfigFor(ctx context.Context, namespace, serviceAccount string) (string, error) {
	token, err := l.token(ctx, namespace, serviceAccount)
	if err != nil {
		return "", err
	}
	name := namespace + "/" + serviceAccount
	return l.kubeconfig(name), l.writeKubeconfig(name, &clientcmdapi.AuthInfo{Token: token})
}

func (l *Lab) token(ctx context.Context, namespace, serviceAccount string) (string, error) {
	cs, err := kubernetes.NewForConfig(l.AdminConfig())
	if err != nil {
		return "", err
	}
	day := int64((24 * time.Hour).Seconds())
	tr, err := cs.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, serviceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &day}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("token for %s/%s: %w", namespace, serviceAccount, err)
	}
	return tr.Status.Token, nil
}

// Kubectl runs kubectl as the admin and returns what it prints. Its complaint
// is in the error.
func (l *Lab) Kubectl(ctx context.Context, args ...string) (string, error) {
	return l.KubectlInput(ctx, "", args...)
}

// Apply applies YAML as the admin.
func (l *Lab) Apply(ctx context.Context, yaml string) error {
	_, err := l.KubectlInput(ctx, yaml, "apply", "-f", "-")
	return err
}

// KubectlInput is Kubectl with something on its standard input.
func (l *Lab) KubectlInput(ctx context.Context, stdin string, args ...string) (string, error) {
	return output(l.KubectlCommand(ctx, args...), stdin, "kubectl", args)
}

// Exec runs a program in a host's namespace and returns its standard output.
// What it wrote to standard error is in the error.
func (l *Lab) Exec(ctx context.Context, host string, args ...string) (string, error) {
	return l.run(ctx, host, "", args...)
}

func (l *Lab) run(ctx context.Context, host, stdin string, args ...string) (string, error) {
	return output(l.Command(ctx, host, args...), stdin, filepath.Base(args[0]), args[1:])
}

// output runs a prepared program, of which what and args tell in an error.
func output(cmd *exec.Cmd, stdin, what string, args []string) (string, error) {
	var out, complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", what, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// Command prepares a program that runs in a host's namespace.
func (l *Lab) Command(ctx context.Context, host string, args ...string) *exec.Cmd {
	if ns := l.netnsPath(host); ns != "" {
		args = append([]string{"nsenter", "--net=" + ns, "--"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = time.Second // a grandchild must not hold us by our pipe
	return cmd
}
