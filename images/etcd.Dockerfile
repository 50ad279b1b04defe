# etcd under the paths of the official image, for tests where that one cannot be pulled. The context has the programs
# that scripts/etcd.sh builds.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY etcd etcdctl etcdutl /usr/local/bin/
ENV PATH=/usr/local/bin
WORKDIR /var/lib/etcd
EXPOSE 2379 2380
CMD ["/usr/local/bin/etcd"]
