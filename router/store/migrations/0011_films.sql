-- A tenant's films by age, without walking through its pictures.
create index task_films on task (tenant, created_at, id) where kind = 'video.generation';
